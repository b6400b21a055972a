"""A project's uid: its id in Label Studio, a dot, and its creation time in Unix seconds."""

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

Json = dict[str, Any]

_UID = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")

UID_SCHEMA: Json = {
    "anyOf": [
        {"type": "string", "pattern": f"^{_UID.pattern}$"},
        {"type": "integer", "minimum": 0, "maximum": 10**18 - 1},
    ]
}


def _read_uid(value: Any) -> Any:
    # Not a float: 7.10 would lose its last digit.
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_uid(value: str) -> str:
    if not _UID.fullmatch(value):
        raise ValueError(
            "a project's UID looks like 7.1795181751: its id, a dot, and its creation time in Unix seconds"
        )
    return value


# A uid, or only the id, as a text or a number. It becomes a folder's name, hence the check.
ProjectUid = Annotated[str, BeforeValidator(_read_uid), AfterValidator(_check_uid), WithJsonSchema(UID_SCHEMA)]


def project_uid(project: Json) -> str:
    """The uid by which `/setup` and `/predict` identify the project that a webhook describes.

    Raises ValueError if `id` or `created_at` is missing.
    """
    try:
        created = datetime.fromisoformat(project["created_at"])
        return _check_uid(f"{_read_uid(project['id'])}.{int(created.timestamp())}")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError("project: `id` and `created_at` are required to identify the project") from error
