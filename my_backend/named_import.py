"""Imports what a setting names as `module:name`."""

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from my_backend.errors import BackendError
from safe_http.redaction import said


class ModuleRaised(BackendError):
    """The module's own code raised an error, which is the cause; its traceback may tell more."""


def import_named(setting: str, value: str, example: str) -> Any:
    """The object that the setting names; the working directory counts, too. Raises BackendError."""
    module_name, _, name = value.partition(":")
    if not name or not module_name or module_name.startswith("."):
        raise BackendError(f"{setting}={value} is invalid: it must be {example}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # users keep their own modules in the working directory
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except SystemExit as error:  # it would end the thread that imports it, silently
        raise BackendError(
            f"can't load {setting}={value}: importing {module_name} calls sys.exit ({said(error)}); "
            'put the code that should run only as a script below `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise BackendError(f"can't load {setting}={value}: {said(error)}") from error
        what = ": ".join(filter(None, [type(error).__name__, said(error)]))
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({Path(last.filename).name}, line {last.lineno})"
        raise ModuleRaised(f"can't load {setting}={value}: importing {module_name} raises {what}{where}") from error
    if found is None:
        raise BackendError(f"can't load {setting}={value}: module {module_name} has no {name}")
    return found
