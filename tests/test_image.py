"""The container image contains every package that is installed with the project."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def installed() -> set[str]:
    """The packages and modules that setuptools takes from the folder of `pyproject.toml`."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {name.removesuffix("*") for name in told["packages"]["find"]["include"]}
    return packages | {f"{name}.py" for name in told["py-modules"]}


def test_image_has_every_installed_package() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    sent_to_the_builder = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }

    assert len(installed()) > 3
    assert all((ROOT / name).exists() for name in copied)
    assert installed() <= copied <= sent_to_the_builder
