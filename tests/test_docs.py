"""The documentation says what the code does."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from image_classifier.settings import ClassifierSettings
from my_backend.diagnostics.problem import CODES
from my_backend.settings import Settings

ROOT = Path(__file__).parents[1]
PACKAGES = ("image_classifier", "label_studio_format", "my_backend", "safe_http", "task_classifier")
DOCS = sorted((ROOT / "docs").glob("*/*.md"))
WITH_TESTS = ["reference/compatibility.md", "operate/security.md"]  # their rows name the tests that show them
NOT_BY_ROW = ("## Annotations", "## Label Studio versions")  # the text above the table names the tests
SETTINGS = sorted({name.upper() for model in (Settings, ClassifierSettings) for name in model.model_fields})


def test_table_and_example_list_the_settings_and_nothing_else() -> None:
    settings = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    table = re.findall(r"^\| `([A-Z_]+)` \|", settings, re.MULTILINE)
    example = re.findall(r"^#([A-Z_]+)=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
    assert sorted(table) == SETTINGS
    assert sorted(example) == SETTINGS


def test_example_of_the_environment_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a line as it stands changes nothing."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    example = tmp_path / ".env"
    lines = (ROOT / ".env.example").read_text("utf-8")
    example.write_text(re.sub(r"^#(?=[A-Z_]+=)", "", lines, flags=re.MULTILINE))
    assert Settings(_env_file=example) == Settings(_env_file=None)
    assert ClassifierSettings(_env_file=example) == ClassifierSettings(_env_file=None)


def test_table_has_the_defaults_of_the_example() -> None:
    table = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    documented = re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? \|", table, re.MULTILINE)
    example = re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)
    assert sorted(documented) == sorted(example)


def test_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [str(page.relative_to(ROOT)) for page in DOCS]
    assert len(pages) > 10
    assert [page for page in pages if f"]({page})" not in readme] == []


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [ROOT / "README.md", *DOCS]
    named = {
        target
        for page in pages
        for target in re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"start", "test", "demo", "production"} <= named <= targets


PAGES = [ROOT / "README.md", *DOCS]


def test_contributing_names_files_that_exist_and_what_is_in_them() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    paths = set(re.findall(r"`([a-z_]+/[a-z_/]*(?:\.[a-z]+)?)`", text))
    assert len(paths) > 20
    assert {path for path in paths if not (ROOT / path).exists()} == set()
    names = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    assert ("save", "task_classifier/version_files.py") in names
    assert [f"{path}: {name}" for name, path in names if name not in (ROOT / path).read_text("utf-8")] == []


def test_links_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8"))]
    assert len(links) > 50
    assert [
        f"{page.name}: {link}"
        for page, link in links
        if not link.startswith("https://") and not (page.parent / link).exists()
    ] == []


def anchors(page: Path) -> set[str]:
    """The names by which links reach the page's headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_headings_that_links_name_exist() -> None:
    links = [
        (page, link, heading)
        for page in PAGES
        for link, heading in re.findall(r"\]\(([^)#]*\.md)#([^)]+)\)", page.read_text("utf-8"))
        if not link.startswith("https://")
    ]
    assert links
    assert [
        f"{page.name}: {link}#{heading}" for page, link, heading in links if heading not in anchors(page.parent / link)
    ] == []


def test_every_module_is_in_the_picture_of_the_house() -> None:
    picture = (ROOT / "docs" / "project" / "architecture.md").read_text("utf-8")
    modules = [
        path.stem
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert [module for module in modules if not re.search(rf"\b{module}\b", picture)] == []


@pytest.mark.parametrize("page", WITH_TESTS)
def test_every_test_that_is_named_exists(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    named = re.findall(r"`(tests/[a-z_0-9/]+\.py)::(test_\w+)(?:\[([^\]]+)\])?`", text)
    assert len(named) > 30
    for path, test, case in named:
        text = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{path}::{test}"
        assert not case or f'"{case}"' in text, f"{path}::{test}[{case}]"


COMPLAINTS = (ROOT / "docs" / "project" / "complaints.md").read_text("utf-8")


def test_every_complaint_has_its_test_and_what_the_doctor_says() -> None:
    rows = [line.split("|")[1:-1] for line in COMPLAINTS.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in rows] == list(range(1, 31))
    for number, _, _, still, said, tests in rows:
        found = re.findall(r"`(tests/[a-z_0-9/]+\.py)::(test_\w+)`", tests)
        assert found, number
        for path, test in found:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), f"{path}::{test}"
        codes = set(re.findall(r"`([a-z-]+)`", said))
        assert codes <= set(CODES), number
        # What users can still cause the doctor names; and no test of it is a test of something else.
        assert bool(codes) is (not still.startswith(" no: ")), number
        text = (ROOT / found[0][0]).read_text("utf-8")
        assert not codes or any(f'"{code}"' in text for code in codes), number


@pytest.mark.parametrize("page", WITH_TESTS)
def test_every_row_names_a_test(page: str) -> None:
    section = ""
    for line in (ROOT / "docs" / page).read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line
        if line.startswith("| ") and not line.startswith("| case |"):
            assert "`tests/" in line or section in NOT_BY_ROW, line


TROUBLESHOOTING = (ROOT / "docs" / "reference" / "troubleshooting.md").read_text("utf-8")


def test_what_troubleshooting_quotes_stands_in_the_code() -> None:
    packages = ("label_studio_format", "my_backend", "safe_http", "task_classifier")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    texts = [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and type(node.value) is str
    ]
    headers = ("| code |", "| what it says |")
    quoted = []
    section = ""
    for line in TROUBLESHOOTING.splitlines():
        section = line if line.startswith(headers) else section if line.startswith("|") else ""
        if section and line.startswith("| `"):
            said = line.split(" | ")[1 if section.startswith("| code |") else 0]
            quoted += re.findall(r"`([^`]+)`", said)
    assert len(quoted) > 30
    fragments = [part.strip() for quote in quoted for part in quote.split("…") if part.strip(" ().,;:=")]
    assert [part for part in fragments if not any(part in text for text in texts)] == []


def test_every_problem_is_in_troubleshooting() -> None:
    codes = {
        code
        for path in (ROOT / "my_backend" / "diagnostics" / "rules").glob("*.py")
        for code in re.findall(r'Problem\(\s*"([a-z-]+)"', path.read_text("utf-8"))
    }
    assert {"webhook-missing", "image"} < codes
    assert set(re.findall(r"^\| `([a-z-]+)` \|", TROUBLESHOOTING, re.MULTILINE)) == codes == set(CODES)
    assert len(CODES) == len(set(CODES))


def test_every_symptom_leads_to_a_problem() -> None:
    table = TROUBLESHOOTING.partition("## By symptom")[2].partition("\n## ")[0]
    named = [code for line in table.splitlines() for code in re.findall(r"`([a-z-]+)`", line.rpartition(" | ")[2])]
    known = re.findall(r"^\| `([a-z-]+)` \|", TROUBLESHOOTING, re.MULTILINE)
    assert len(set(named)) > 15
    assert set(named) <= set(known)


def test_every_field_of_a_log_line_is_in_the_table() -> None:
    page = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")
    table = page.partition("| field |")[2].partition("\n\n")[0]
    fields = set(re.findall(r"`(\w+)`", "\n".join(line.split(" | ")[0] for line in table.splitlines())))
    writers = ("log/lines.py", "web/middleware/request_log.py", "jobs/record.py")
    sources = "".join((ROOT / "my_backend" / name).read_text("utf-8") for name in writers)
    assert {"time", "traceback", "milliseconds", "request_id"} <= fields
    assert [field for field in fields if f'"{field}"' not in sources and f"{field}=" not in sources] == []


IN_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def unwanted_words() -> list[str]:
    """The last columns of the glossary's tables."""
    glossary = (ROOT / "CONTRIBUTING.md").read_text("utf-8").partition("### Glossary")[2].partition("\n#")[0]
    return [
        word for row in re.findall(r"^\|.*\| (.*)\|$", glossary, re.MULTILINE) for word in re.findall(r"`(.+?)`", row)
    ]


def python_prose(path: Path) -> str:
    """Comments and texts; a single word may be a key of JSON, which keeps its name. Of tests only their names."""
    source = path.read_text("utf-8")
    if path.is_relative_to(ROOT / "tests"):
        return "\n".join(re.findall(r"def (test_\w+)", source)).replace("_", " ")
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    constants = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return "\n".join([*comments, *(text for text in constants if isinstance(text, str) and " " in text)])


def test_texts_keep_to_the_glossary() -> None:
    words = unwanted_words()
    assert {"labelled", "any more"} <= set(words)
    any_of_them = "|".join(words).replace(" ", r"\s+")
    unwanted = re.compile(rf"\b(?:{any_of_them})(?:s|d|ed|ing)?\b", re.IGNORECASE)
    folders = [ROOT / name for name in (*PACKAGES, "benchmarks", "demo", "examples", "testing", "tests")]
    sources = [ROOT / "model.py", *(path for folder in folders for path in folder.rglob("*.py"))]
    pages = [*ROOT.glob("*.md"), *DOCS, ROOT / ".env.example", ROOT / "Makefile"]
    pages += [path for folder in folders for kind in ("html", "js") for path in folder.rglob(f"*.{kind}")]
    texts = {path: python_prose(path) for path in sources} | {path: path.read_text("utf-8") for path in pages}
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path, text in texts.items()
        for word in unwanted.findall(IN_CODE.sub("", text))
    ]
    assert not found, "\n".join(found)
