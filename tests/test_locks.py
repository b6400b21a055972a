"""The lock files name the hash of each package, and whatever installs from them checks it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.txt", "requirements-dev.txt", "testing/label-studio-requirements.txt"]


@pytest.mark.parametrize("name", LOCKS)
def test_each_locked_package_has_hashes(name: str) -> None:
    packages = (ROOT / name).read_text("utf-8").replace("\\\n", " ").splitlines()

    assert len(packages) > 50
    assert [
        one for one in packages if not re.fullmatch(r"\S+==\S+( ;[^\\]+?)?( +--hash=sha256:[0-9a-f]{64})+", one)
    ] == []


def test_locked_packages_are_installed_only_by_the_script_checking_hashes() -> None:
    for name in ("Dockerfile", "Makefile"):
        told = (ROOT / name).read_text("utf-8")
        assert "install_packages.py" in told
        assert re.findall(r"pip install .*requirements(?:-dev)?\.txt", told) == []
