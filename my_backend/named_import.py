"""Imports what a setting names as `module:name`."""

import importlib
import sys
from pathlib import Path
from typing import Any

from my_backend.errors import BackendError
from safe_http.redaction import said


def import_named(setting: str, value: str, example: str) -> Any:
    """The object that the setting names; the working directory counts, too. Raises BackendError."""
    module_name, _, name = value.partition(":")
    if not name:
        raise BackendError(f"{setting}={value} is invalid: it must be {example}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # users keep their own modules in the working directory
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"can't load {setting}={value}: {said(error)}") from error
    except SystemExit as error:  # it would end the thread that imports it, silently
        raise BackendError(
            f"can't load {setting}={value}: importing {module_name} calls sys.exit ({said(error)}); "
            'put the code that should run only as a script below `if __name__ == "__main__":`'
        ) from error
