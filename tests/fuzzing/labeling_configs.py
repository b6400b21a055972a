"""Labeling configs: one gives choices, or a problem in words; each choice is found again in its own prediction."""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

from label_studio_format.annotations import selected_in
from label_studio_format.image_value import image_url
from label_studio_format.labeling_config import parse_label_config
from tests.fuzzing.target import HOSTILE_JSON, Target
from tests.my_backend.fake_model import LABEL_CONFIG

MOST = 20  # choices to look at
NESTED = """<View><Image name="i" value="http://h/$a.b[0].png"/>
<Taxonomy name="t" toName="i" leafsOnly="true" value="$o">
<Choice value="A" alias="b"><Choice value="C" predicted_values="c, d"/></Choice><Choice value="C"/></Taxonomy></View>"""
DYNAMIC = """<View><Image name="i" value="$image"/><Text name="x" value="$t"/>
<Choices name="c" toName="i" value="$options" choice="multiple" allowNested="true"/></View>"""
TASK = {"image": "a.png", "a": {"b": ["c"]}, "o": [{"value": "E", "children": [{"alias": "F"}]}], "options": ["x", 1]}
WORDS = (
    *("<View>", "</View>", '<Image name="', '<Choices name="', '<Taxonomy name="', '<Choice value="', "</Choice>"),
    *('toName="', 'value="$', 'alias="', 'predicted_values="', 'choice="multiple"', 'allowNested="true"', "/>"),
    *('perRegion="', 'valueList="', 'apiUrl="', 'leafsOnly="', 'maxUsages="1"', "<!DOCTYPE ", "&amp;", "{{"),
)


def _read(data: bytes) -> None:
    """The config, and after a NUL, which XML can't have, the data of a task."""
    xml, _, rest = data.partition(b"\0")
    config = parse_label_config(xml.decode(errors="replace"))
    assert bool(config.problem) is (config.image_choices is None)
    if config.image_choices is None:
        return
    task = _task(rest)
    tag = config.image_choices.for_task(task)
    image_url(task, tag.field)
    assert len(set(tag.choices)) == len(tag.choices)
    for name in tag.choices[:MOST]:
        [region] = tag.prediction([name], 0.5)["result"]
        assert tag.name_of(selected_in(region)[0]) == name, f"{name!r} isn't found again"


def _task(data: bytes) -> dict[str, Any]:
    try:
        task = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return task if isinstance(task, dict) else {}


def _seeds() -> Iterable[bytes]:
    for xml in (LABEL_CONFIG, NESTED, DYNAMIC, "", "<View/>", "<a" * 2_000, "<View>" * 1_500):
        yield xml.encode() + b"\0" + json.dumps(TASK).encode()
    yield from (DYNAMIC.encode() + b"\0" + one for one in HOSTILE_JSON)


TARGET = Target(lambda: nullcontext(_read), _seeds, WORDS)
