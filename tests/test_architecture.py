"""The arrows of docs/project/architecture.md hold: who imports whom, and what starts without the network's library."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("image_classifier", "label_studio_format", "my_backend", "safe_http", "task_classifier", "demo", "testing")


@dataclass(frozen=True)
class Import:
    """A name that is taken from a module; "" for the module itself."""

    line: int
    module: str
    name: str


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {
    module_name(path): path
    for path in [
        ROOT / "model.py",
        *(p for package in PACKAGES for p in (ROOT / package).rglob("*.py")),
    ]
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (Import(node.lineno, node.module or "", alias.name) for alias in node.names)


def imported_modules(name: str) -> set[str]:
    """The project's modules that a module needs."""
    found = set()
    for one in imports(TREES[name]):
        inner = f"{one.module}.{one.name}"
        found |= {inner if inner in FILES else one.module} & FILES.keys()
    return found


def test_every_module_is_looked_at() -> None:
    assert {
        "model",
        "image_classifier.nets.classifier",
        "image_classifier.cli.main",
        "my_backend.web.app",
        "demo.images",
        "testing.digits",
    } <= FILES.keys()
    assert "my_backend.label_studio.media" in imported_modules("task_classifier.task_images")


NOT_IN_THE_WHEEL = {"demo", "testing"}
FORBIDDEN = {
    # Pure: nothing of ours, no network, no server.
    "label_studio_format": {
        *("image_classifier", "my_backend", "safe_http", "task_classifier", "model"),
        *("torch", "PIL", "flask", "requests"),
    },
    # HTTP, but nothing of ours, and no server.
    "safe_http": {
        *("image_classifier", "label_studio_format", "my_backend", "task_classifier", "model"),
        *("torch", "PIL", "flask"),
    },
    # Knows nothing of a Label Studio server, HTTP or Redis; requests is there for the download of the weights.
    "image_classifier": {
        "my_backend",
        "task_classifier",
        "model",
        "flask",
        "werkzeug",
        "redis",
        "rq",
        "label_studio_ml",
        "label_studio_sdk",
    },
    # Knows nothing of the network.
    "my_backend": {
        *("image_classifier", "task_classifier", "model"),
        *("torch", "torchvision", "PIL", "safetensors", "lmdb"),
    },
    "task_classifier": {"model", "flask", "werkzeug", "redis", "rq", "requests"},
    "model": {"flask", "werkzeug", "redis", "rq", "requests"},
    "testing": {"demo"},
}


def forbidden(package: str) -> set[str]:
    return FORBIDDEN.get(package, set()) | (NOT_IN_THE_WHEEL if package not in NOT_IN_THE_WHEEL else set())


def test_arrows_point_right_and_down_only() -> None:
    assert [
        f"{name}:{one.line}: {one.module}"
        for name, tree in TREES.items()
        for one in imports(tree)
        if one.module.partition(".")[0] in forbidden(name.partition(".")[0])
    ] == []


def test_nothing_needs_the_command_line() -> None:
    users = {name for name in FILES if any(one.startswith("image_classifier.cli") for one in imported_modules(name))}
    outside = {name for name in users if not name.startswith("image_classifier.cli.")}
    assert outside == {"image_classifier.__main__", "image_classifier.api"}


def test_only_the_command_line_of_the_classifier_fetches_images() -> None:
    users = {name for name in FILES if any(one.startswith("safe_http") for one in imported_modules(name))}
    inside = {name for name in users if name.startswith("image_classifier")}
    assert {name for name in inside if not name.startswith("image_classifier.cli.")} == set()


def test_only_the_classifiers_command_line_reads_label_studios_formats() -> None:
    """`pasted_values` and `env_file` are no formats of Label Studio: all settings are read with them."""
    users = {
        f"{name}: {one}"
        for name in FILES
        if name.startswith("image_classifier.") and not name.startswith("image_classifier.cli.")
        for one in imported_modules(name) - {"label_studio_format.pasted_values", "label_studio_format.env_file"}
        if one.startswith("label_studio_format")
    }
    assert users == set()


def test_requests_is_for_the_download_of_the_weights_alone() -> None:
    users = {name for name, tree in TREES.items() if any(one.module == "requests" for one in imports(tree))}
    assert {name for name in users if name.startswith("image_classifier")} <= {"image_classifier.nets.weights"}


def test_images_are_opened_within_the_memory_budget_alone() -> None:
    """What else opened one would take memory that the others count on; `open_image` waits for its share."""
    openers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("open", "frombytes", "frombuffer", "Parser")
        if isinstance(node.value, ast.Name) and node.value.id in ("Image", "ImageFile")
    }
    assert {name for name in openers if name.partition(".")[0] not in NOT_IN_THE_WHEEL} == {
        "image_classifier.data.preprocessing",
        "image_classifier.nets.onnx_example",  # which only others run
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_taken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each private name of another module: imported, or read as an attribute of the module."""
    taken = list(imports(tree))
    for one in taken:
        if any(map(is_private, [one.name, *one.module.split(".")])):
            yield one.line, f"{one.module}.{one.name}"
    modules = {
        (one.name or one.module).split(".")[-1]
        for one in taken
        if one.module in FILES or f"{one.module}.{one.name}" in FILES
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules and is_private(name):
                yield node.lineno, f"{module}.{name}"


def test_private_names_stay_in_their_module() -> None:
    taken = [f"{name}:{line}: {what}" for name, tree in TREES.items() for line, what in private_names_taken(tree)]
    assert taken == []


# A server listens earlier without them; and while a command imports them, Ctrl-C prints no traceback.
IMPORTED_LATE = {
    ("image_classifier.__main__", "image_classifier.cli.console"),
    ("image_classifier.__main__", "image_classifier.cli.main"),
    ("my_backend.backend", "my_backend.jobs.rq_queue"),
    ("my_backend.commands.console", "rich.console"),
    ("my_backend.commands.console", "rich.progress"),
    ("my_backend.label_studio.client", "jwt"),
    ("my_backend.settings", "redis"),
    ("my_backend.web.pages.charts", "pygal"),
}


def test_imports_stand_at_the_top() -> None:
    late = {
        (name, one.module)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for one in imports(node)
    }
    assert late == IMPORTED_LATE


def test_no_modules_need_each_other() -> None:
    graph = {name: imported_modules(name) for name in FILES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))
    assert order.index("my_backend.label_studio.media") < order.index("model")


DIAGRAM = (ROOT / "docs" / "project" / "architecture.md").read_text(encoding="utf-8")


def part_of(package: str, name: str) -> str:
    """The folder of the package that a module is in, or the module itself."""
    return ".".join(name.split(".")[: package.count(".") + 2])


def depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def described(package: str) -> list[str]:
    """The package's folders and modules as the diagram lists them: each needs only those above it."""
    text = DIAGRAM
    for name in package.split("."):
        text = re.split(rf"^ *{name}/(?: .*)?\n", text, maxsplit=1, flags=re.MULTILINE)[1]
    lines = [line for line in text.splitlines() if line.strip()]
    inside = list(takewhile(lambda line: depth(line) >= depth(lines[0]), lines))
    own = [line.lstrip() for line in inside if depth(line) == depth(lines[0])]
    found = [re.match(r"((?:\w+, )*\w+)(?:/| {2}|\.py)", line) for line in own]
    return [f"{package}.{name}" for one in found if one for name in one[1].split(", ")]


FOLDERS = sorted(name for name, path in FILES.items() if path.name == "__init__.py")


def test_packages_need_only_packages_described_above_them() -> None:
    order = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", DIAGRAM, flags=re.MULTILINE)
    assert order == ["label_studio_format", "safe_http", "image_classifier", "my_backend", "task_classifier", "model"]
    for name in FILES:
        package = name.partition(".")[0]
        if package in order:
            needed = {one.partition(".")[0] for one in imported_modules(name)}
            assert needed <= set(order[: order.index(package) + 1]), name


@pytest.mark.parametrize("package", FOLDERS)
def test_folders_and_modules_need_only_those_described_above_them(package: str) -> None:
    order = described(package)
    parts = {name: part_of(package, name) for name in FILES if name.startswith(f"{package}.")}
    assert set(order) == set(parts.values()) - {f"{package}.__main__"}
    for name, part in parts.items():
        needed = {part_of(package, one) for one in imported_modules(name) if one.startswith(f"{package}.")} - {part}
        assert needed <= set(order[: order.index(part)] if part in order else order), name


RULES = "my_backend.diagnostics.rules."
IMPURE = {"logging", "os", "redis", "requests", "subprocess", "threading", "time", "my_backend.files"}


def test_only_rules_say_what_is_wrong_and_they_ask_nobody() -> None:
    """Whoever changes the words of a problem finds them in one folder, and needs no server to test them."""
    makers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
    }
    assert len(makers) > 5
    assert {name for name in makers if not name.startswith(RULES)} == set()
    used = {one.module for name, tree in TREES.items() if name.startswith(RULES) for one in imports(tree)}
    assert used & IMPURE == set()


def test_only_a_command_calls_the_published_hook_without_a_new_process() -> None:
    """The user's function may hang or crash, and no server or worker with it."""
    callers = {
        f"{name}.{function.name}"
        for name, tree in TREES.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("call_hook", "repeat_call")
    }
    assert callers == {"my_backend.published_hook.caller.repeat_call", "my_backend.commands.versions.hook"}


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "my_backend.commands.cli",
            {"torch", "torchvision", "PIL", "label_studio_ml", "image_classifier", "task_classifier", "model"},
        ),
        ("my_backend.commands.server", {"torch", "image_classifier", "typer", "rich", "pygal", "redis", "rq", "jwt"}),
        ("image_classifier.settings", {"torch", "flask"}),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(module: str, unwanted: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert module in loaded.split()
    assert unwanted & set(loaded.split()) == set()


# Their texts are our own.
OUR_ERRORS = {
    *(node.name for node in ast.walk(TREES["my_backend.errors"]) if isinstance(node, ast.ClassDef)),
    *("NoDriver", "SystemExit"),
}


def errors_told(tree: ast.AST) -> Iterator[int]:
    """Lines of handlers that put the text of a library's error into a text of ours, unredacted."""
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and node.name):
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        if all(isinstance(kind, ast.Name) and kind.id in OUR_ERRORS for kind in kinds):
            continue
        nodes = [node for statement in handler.body for node in ast.walk(statement)]
        clean = {
            inner
            for node in nodes
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("said", "redact", "explain")
            for inner in ast.walk(node)
        }
        yield from (node.lineno for node in nodes if node not in clean and _tells(node, handler.name or ""))


def test_no_error_of_others_is_told_with_its_secrets() -> None:
    """An error of a library may quote the request, with its token; log lines are redacted by the logging itself."""
    backend = {name: tree for name, tree in TREES.items() if name.startswith(("my_backend.", "safe_http."))}
    assert [f"{name}:{line}" for name, tree in backend.items() for line in errors_told(tree)] == []


def _tells(node: ast.AST, error: str) -> bool:
    """Whether an expression is the text of the error that has this name."""
    if isinstance(node, ast.FormattedValue):
        return isinstance(node.value, ast.Name) and node.value.id == error
    is_str = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str"
    return is_str and [one.id for one in node.args if isinstance(one, ast.Name)] == [error]
