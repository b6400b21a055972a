"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest

from image_classifier.settings import ClassifierSettings
from my_backend.settings import Settings

ROOT = Path(__file__).parents[1]
COMPATIBILITY = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
SETTINGS = sorted({name.upper() for model in (Settings, ClassifierSettings) for name in model.model_fields})


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_is_in_the_table_and_in_the_example(name: str) -> None:
    assert f"| `{name}` |" in (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert re.search(rf"^#{name}=", (ROOT / ".env.example").read_text("utf-8"), re.MULTILINE)


def test_nothing_is_in_the_table_that_is_no_setting() -> None:
    documented = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(documented) == SETTINGS


def test_every_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {
        target
        for page in pages
        for target in re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {"start", "test", "demo", "production"} <= named <= targets


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_every_module_is_in_the_picture_of_the_house() -> None:
    picture = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    modules = [
        path.stem
        for package in ("image_classifier", "my_backend")
        for path in (ROOT / package).rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    assert [module for module in modules if not re.search(rf"\b{module}\b", picture)] == []


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[a-z_0-9/]+\.py)::(test_\w+)(?:\[([^\]]+)\])?`", COMPATIBILITY)
    assert len(named) > 40
    for path, test, case in named:
        text = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{path}::{test}"
        assert not case or f'"{case}"' in text, f"{path}::{test}[{case}]"


def test_every_row_of_compatibility_names_a_test() -> None:
    section = ""
    for line in COMPATIBILITY.splitlines():
        if line.startswith("## "):
            section = line
        if line.startswith("| ") and not line.startswith("| what |"):
            assert "`tests/" in line or section == "## Annotations", line
