"""The targets by name; each is in the module of that name."""

from importlib import import_module
from pathlib import Path

from tests.fuzzing.target import Target

NAMES = (
    "images",
    "labeling_configs",
    "request_bodies",
    "exports",
    "url_lists",
    "records",
    "models",
    "embeddings",
)
CORPUS = Path(__file__).with_name("corpus")


def load(name: str) -> Target:
    """Imports only what the target needs: some need torch, which takes seconds."""
    target: Target = import_module(f"tests.fuzzing.{name}").TARGET
    return target


def kept(name: str) -> list[Path]:
    """The target's inputs in the repository: each reaches other code, or has once broken the target."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
