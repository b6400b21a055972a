"""Prints JSON on standard output, whatever its encoding."""

import json
import sys
from typing import Any

import typer


def print_json(value: Any) -> None:
    """Prints every character as it is, or with JSON's own escapes if the encoding lacks one: never a `?` instead."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    typer.echo(text)
