"""`make release` dates the changelog, and commits and tags the version; the workflow publishes exactly that."""

import subprocess
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.scripts import load_script

ROOT = Path(__file__).parents[1]
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- A new thing.

## [0.1.0] - 2026-11-21

- The first things.
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("release")
    monkeypatch.setattr(module, "build", lambda root: (root / "dist").mkdir())
    return module


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Someone")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "someone@example.com")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return tmp_path


def test_release_sets_the_version_dates_the_changelog_and_tags_the_commit(script: ModuleType, clone: Path) -> None:
    script.main(["0.2.0"], clone)

    assert 'version = "0.2.0"' in git(clone, "show", "v0.2.0:pyproject.toml")
    written = git(clone, "show", "v0.2.0:CHANGELOG.md")
    assert f"## [Unreleased]\n\n## [0.2.0] - {date.today()}\n\n### Added\n\n- A new thing.\n\n## [0.1.0]" in written
    assert script.notes(written, "0.2.0") == "### Added\n\n- A new thing."
    assert git(clone, "log", "-1", "--format=%s") == "Release 0.2.0"
    assert git(clone, "rev-parse", "v0.2.0^{commit}") == git(clone, "rev-parse", "HEAD")
    assert (clone / "dist").is_dir()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["0.1.0"], "must be newer"),
        (["0.0.9"], "must be newer"),
        (["next"], "isn't a version"),
        (["0.2.0rc1"], "isn't a version"),
        ([], "usage"),
        (["--version"], "usage"),
    ],
)
def test_version_that_cannot_be_released_changes_nothing(
    script: ModuleType, clone: Path, arguments: list[str], why: str
) -> None:
    with pytest.raises(script.Refusal, match=why):
        script.main(arguments, clone)

    assert (git(clone, "status", "--porcelain"), git(clone, "tag")) == ("", "")


def test_uncommitted_changes_and_an_empty_changelog_are_refused(script: ModuleType, clone: Path) -> None:
    (clone / "new.txt").touch()
    with pytest.raises(script.Refusal, match=r"\?\? new\.txt"):
        script.main(["0.2.0"], clone)

    (clone / "CHANGELOG.md").write_text(CHANGELOG.replace("### Added\n\n- A new thing.\n", ""))
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "Say nothing")
    with pytest.raises(script.Refusal, match="says nothing under Unreleased"):
        script.main(["0.2.0"], clone)

    assert git(clone, "tag") == ""


def test_tag_that_exists_and_a_version_without_notes_are_refused(script: ModuleType, clone: Path) -> None:
    git(clone, "tag", "v0.2.0")
    head = git(clone, "rev-parse", "HEAD")

    with pytest.raises(script.Refusal, match=r"the tag v0\.2\.0 already exists"):
        script.main(["0.2.0"], clone)
    with pytest.raises(script.Refusal, match=r"has no notes for 9\.9\.9"):
        script.main(["--notes", "9.9.9"], clone)

    assert (git(clone, "status", "--porcelain"), git(clone, "rev-parse", "HEAD")) == ("", head)


def test_notes_of_our_own_changelog_are_found(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.main(["--notes", "0.1.0"])

    said = capsys.readouterr().out
    assert "### Versions and jobs" in said
    assert "\n## " not in said


def test_release_is_published_only_after_the_tests_and_only_for_tags() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8"))
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))

    assert workflow[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}  # YAML 1.1 reads `on` as true
    assert "workflow_call" in tests[True]
    assert workflow["jobs"]["test"]["uses"] == "./.github/workflows/tests.yml"
    publishing = {name: job for name, job in workflow["jobs"].items() if name != "test"}
    assert set(publishing) == {"package", "image"}
    assert all(job["needs"] == "test" for job in publishing.values())
