"""Makes a release from a clean clone: python deploy/release.py 0.2.0

It sets the version, dates the section *Unreleased* of CHANGELOG.md, commits and tags both, and builds the wheel into
dist/. Nothing leaves the machine: pushing the tag starts .github/workflows/release.yml, which publishes the release.

`python deploy/release.py --notes 0.2.0` prints a release's section of CHANGELOG.md.
"""

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNRELEASED = "## [Unreleased]\n"
VERSION = re.compile(r'^version = "(.+)"$', re.MULTILINE)


class Refusal(Exception):
    """The release can't be made; the message says why and what to do."""


def main(arguments: list[str], root: Path = ROOT) -> None:
    """Raises Refusal before it changes anything."""
    match arguments:
        case ["--notes", version]:
            if not (found := notes((root / "CHANGELOG.md").read_text("utf-8"), version)):
                raise Refusal(f"CHANGELOG.md has no notes for {version}: add them")
            print(found)
        case [version] if not version.startswith("-"):
            release(version, root)
        case _:
            raise Refusal("usage: python deploy/release.py [--notes] VERSION")


def release(version: str, root: Path) -> None:
    project, changelog = root / "pyproject.toml", root / "CHANGELOG.md"
    described = project.read_text("utf-8")
    current = VERSION.search(described)
    if not current or numbers(version) <= numbers(current[1]):
        raise Refusal(f"{version} must be newer than the version in pyproject.toml, {current and current[1]}")
    if changes := git(root, "status", "--porcelain"):
        raise Refusal(f"commit or remove your changes first:\n{changes}")
    if git(root, "tag", "--list", f"v{version}"):
        raise Refusal(f"the tag v{version} already exists: choose a newer version, or delete the tag")
    history = changelog.read_text("utf-8")
    if not notes(history, "Unreleased"):
        raise Refusal("CHANGELOG.md says nothing under Unreleased: describe what has changed")
    project.write_text(VERSION.sub(f'version = "{version}"', described), "utf-8")
    dated = f"{UNRELEASED}\n## [{version}] - {date.today()}\n"
    changelog.write_text(history.replace(UNRELEASED, dated, 1), "utf-8")
    git(root, "commit", "--quiet", "--all", "--message", f"Release {version}")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"Release {version}")
    build(root)
    print(f"Built dist/ and tagged v{version}. To publish it: git push --follow-tags")


def build(root: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=root, check=True)


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version such as 0.2.0; raises Refusal."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise Refusal(f"{version} isn't a version such as 0.2.0")
    return tuple(map(int, version.split(".")))


def notes(history: str, version: str) -> str:
    """What CHANGELOG.md says about a version, without its heading; "" if there is nothing."""
    section = re.search(rf"^## \[{re.escape(version)}\].*\n((?:(?!## \[).*\n?)*)", history, re.MULTILINE)
    return section[1].strip() if section else ""


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refusal(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.rstrip()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refusal as refusal:
        sys.exit(str(refusal))
