"""What the code under test has written to disk."""

from pathlib import Path


def texts(folder: Path) -> dict[Path, str]:
    """The text of each file in the folder and below, except files that are removed meanwhile, as temporary ones are."""
    found = {}
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found[path] = path.read_text("utf-8", "replace")
        except FileNotFoundError:
            continue
    return found
