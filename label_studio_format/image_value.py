"""The `value` of an Image tag: which of a task's fields it shows, substituted as Label Studio's editor does."""

import re
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

LONGEST_VALUE = 2000  # characters
LONGEST_URL = 20_000  # combined from several fields; no server accepts a longer one

# The field's name in a task's data if the file was uploaded before the project had a labeling config.
UPLOAD = "$undefined$"

_VARIABLE = re.compile(r"\$([\w[\].{}]+)", re.ASCII)
_STEP = re.compile(r"[^.[\]]+")


def image_field(tag: Element) -> str:
    """The `field` argument for `image_url`: `image` for the value `$image`, otherwise the whole value.

    It is "" if the tag doesn't show a single image; `why_no_field` says why.
    """
    if why_no_field(tag):
        return ""
    value = tag.get("value", "")
    return value[1:] if _VARIABLE.fullmatch(value) else value


def why_no_field(tag: Element) -> str:
    """Why the tag doesn't show a single image for each task; "" if it does."""
    value = tag.get("value", "")
    shown = value.partition("?")[0][:100]  # a signature may follow
    if tag.get("valueList"):
        return 'its Image shows several images (valueList); it needs value="$…"'
    if not value:
        return 'its Image has no value; it needs value="$…"'
    if "{{" in value:
        return f'its Image is part of a Repeater (value="{shown}"); it needs the value of a single image'
    if not re.search(r"\$\w", value):
        return f'its Image is the same for all tasks because its value="{shown}" names no field; it needs "$…"'
    if len(value) > LONGEST_VALUE:
        return f"the value of its Image has more than {LONGEST_VALUE:,} characters"
    return ""


def image_url(data: Mapping[str, Any], field: str) -> str | None:
    """The URL of a task's image; None if its data has none.

    `field` may name a field (`image`, `meta.url`, `images[0]`), or be a text with such names, as in
    `http://host/$file`. Of a list it takes the first item, as Label Studio does.
    """
    # The whole value may be a field's name too, for example `image-url`, or in tasks created from a URL.
    found = data.get(field) or data.get(field.removeprefix("$"))
    if not found and "$" in field:
        found = _put_together(data, field)
    elif not found:
        found = value_of(data, field)
    found = found or data.get(UPLOAD)
    if isinstance(found, list):
        found = found[0] if found else None
    return found if isinstance(found, str) and found else None


def value_of(data: Mapping[str, Any], name: str) -> Any:
    """The value in a task's data for a name such as `image`, `meta.url` or `images[0]`; None if there is none."""
    found, rest = _look_up(data, name)
    return None if rest else found


def _put_together(data: Mapping[str, Any], value: str) -> str | None:
    parts: list[str] = []
    end = length = 0
    variables = list(_VARIABLE.finditer(value))
    for variable in variables:
        found, rest = _look_up(data, variable[1])
        if isinstance(found, bool) or not isinstance(found, str | int):
            return None
        parts += [value[end : variable.start()], str(found), rest]
        end = variable.end()
        length += len(parts[-2])
        if len(variables) > 1 and length > LONGEST_URL:  # the same field again and again
            return None
    return "".join([*parts, value[end:]]) if parts else None


def _look_up(data: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """The value at a path such as `images[0].url`, and the rest of the path after a text or number.

    In `http://host/$id.png`, Label Studio's importer reads the field name as `id`, its editor as `id.png`; the one
    that the task has is used.
    """
    if path in data:
        return data[path], ""
    found: Any = data
    end = 0
    for step in _STEP.finditer(path):
        if isinstance(found, Mapping):
            found = found.get(step[0])
        elif isinstance(found, list) and step[0].isdecimal() and len(step[0]) < 10:
            found = found[int(step[0])] if int(step[0]) < len(found) else None
        else:
            break
        end = step.end()
    return found, path[end:].removeprefix("]")
