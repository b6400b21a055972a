"""The labeling config: which choices it offers for which image, and what they are called in annotations."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from my_backend.redaction import said

HOW_TO_MAKE_IT_USABLE = (
    "In the project's Settings → Labeling Interface, take the template Computer Vision → Image Classification, or add "
    "a Choices tag whose toName is the name of an Image."
)
DEEPEST = 100  # tags below a Choices tag: paths hold all names above, so that their size grows with its square

Json = dict[str, Any]


@dataclass(frozen=True)
class Choice:
    """A `Choice` tag, or one that a task brings along."""

    path: tuple[str, ...]  # the names from the outermost Choice down to this one, as annotations hold them
    also_called: tuple[str, ...] = ()  # the value behind an alias, and predicted_values


@dataclass(frozen=True)
class ImageChoices:
    """A `Choices` tag that labels an `Image` tag, and the tasks' field that holds the image's URL."""

    from_name: str
    to_name: str
    field: str
    offered: tuple[Choice, ...]
    multiple: bool = False
    nested: bool = False
    dynamic_field: str = ""  # the tasks' field that brings choices of its own

    @cached_property
    def _by_name(self) -> dict[str, Choice]:
        """A name for each choice: its own, or its whole path where another has the same."""
        own = Counter(choice.path[-1] for choice in self.offered)
        return {
            choice.path[-1] if own[choice.path[-1]] == 1 else "/".join(choice.path): choice for choice in self.offered
        }

    @cached_property
    def _names(self) -> dict[str, str]:
        """Whatever a choice may be called → its name; what several are called means none."""
        names: dict[str, str] = {}
        ambiguous = set()
        for name, choice in self._by_name.items():
            for called in {"/".join(choice.path), *choice.also_called} - self._by_name.keys():
                if names.setdefault(called, name) != name:
                    ambiguous.add(called)
        return {called: name for called, name in names.items() if called not in ambiguous} | {
            name: name for name in self._by_name
        }

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The names that are learned and predicted, in the config's order."""
        return tuple(self._by_name)

    def name_of(self, called: Any) -> str:
        """The name of what an annotation or a model calls a choice; "" where there is none such.

        A nested choice is a path, whose last part counts; other spellings are an alias' value and predicted_values,
        which are compared without regard to case where nothing fits exactly.
        """
        if isinstance(called, list):
            path = "/".join(map(str, called))
            return self._names.get(path) or (self.name_of(str(called[-1])) if called else "")
        found = self._names.get(str(called))
        return found or self._folded_names.get(str(called).casefold(), "")

    @cached_property
    def _folded_names(self) -> dict[str, str]:
        return {called.casefold(): name for called, name in self._names.items()}

    def for_task(self, data: Mapping[str, Any]) -> "ImageChoices":
        """The same with the choices that the task brings along, where the config asks for them."""
        if not self.dynamic_field:
            return self
        return replace(self, offered=(*self.offered, *_dynamic(data.get(self.dynamic_field))), dynamic_field="")

    def prediction(self, names: Iterable[str], score: float) -> Json:
        """Choices as Label Studio stores them; `score` from 0 to 1."""
        paths = [self._by_name[name].path for name in names]
        region = {
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": "choices",
            "value": {"choices": [list(path) if self.nested else path[-1] for path in paths]},
            "score": score,
        }
        return {"result": [region], "score": score}


@dataclass(frozen=True)
class LabelConfig:
    """What a labeling config asks for: choices for an image, or the reason why there is nothing to learn."""

    image_choices: ImageChoices | None
    problem: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        return self.image_choices.choices if self.image_choices else ()


@lru_cache(maxsize=256)
def parse_label_config(xml: str, choices_name: str = "") -> LabelConfig:
    """Finds the `Choices` to learn: the one of that name, else the first that can be learned.

    Never raises: a config that cannot be used says why in `problem`.
    """
    if not xml.strip():
        return LabelConfig(None, "The project has no labeling config yet: add an Image and a Choices tag.")
    try:
        root = fromstring(xml)
    except (ParseError, DefusedXmlException, ValueError) as error:
        return LabelConfig(None, f"The labeling config is no valid XML: {said(error)}.")
    fields = {tag.get("name", ""): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    if not any(name and field for name, field in fields.items()):
        return LabelConfig(None, 'The labeling config has no <Image name="…" value="$…"> to classify.')
    tags = [tag for tag in root.iter("Choices") if tag.get("toName") in fields]
    if not tags:
        return LabelConfig(None, "The labeling config has no <Choices> whose toName is an Image.")
    if choices_name:
        tags = [tag for tag in tags if tag.get("name") == choices_name]
        if not tags:
            return LabelConfig(None, f"The labeling config has no Choices named {choices_name!r}, as CHOICES says.")
    problems = []
    for tag in tags:
        problem = _why_unusable(tag, fields)
        if not problem:
            return LabelConfig(_image_choices(tag, fields))
        problems.append(f'<Choices name="{tag.get("name", "")}">: {problem}.')
    return LabelConfig(None, " ".join(problems))


def _why_unusable(tag: Element, fields: Mapping[str, str]) -> str:
    if not tag.get("name"):
        return "it has no name"
    if not fields[tag.get("toName", "")]:
        return 'its Image shows several images (valueList) or none; it needs value="$…"'
    if _is_true(tag.get("perRegion")) or _is_true(tag.get("perItem")):
        return "it labels regions or items (perRegion, perItem), not the image"
    if _is_deeper(tag, DEEPEST):
        return f"its tags are nested more than {DEEPEST} deep"
    if next(_static(tag), None) is None and not tag.get("value"):
        return "it has no <Choice>"
    return ""


def _image_choices(tag: Element, fields: Mapping[str, str]) -> ImageChoices:
    to_name = tag.get("toName", "")
    return ImageChoices(
        from_name=tag.get("name", ""),
        to_name=to_name,
        field=fields[to_name],
        offered=tuple(dict.fromkeys(_static(tag))),
        multiple=tag.get("choice", "single") == "multiple",
        nested=_is_true(tag.get("allowNested")),
        dynamic_field=tag.get("value", "").removeprefix("$"),
    )


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "yes", "1")


def _is_deeper(tag: Element, deepest: int) -> bool:
    level = [tag]
    for _ in range(deepest):
        level = [child for above in level for child in above]
    return any(len(above) for above in level)


def _static(tag: Element, above: tuple[str, ...] = ()) -> Iterator[Choice]:
    """The Choice tags below a tag, from the outside in; other tags between them only arrange them."""
    for child in tag:
        path = above
        if child.tag == "Choice" and (name := child.get("alias") or child.get("value")):
            path = (*above, name)
            synonyms = (child.get("predicted_values") or "").split(",")
            yield Choice(path, tuple(_clean([child.get("value", ""), *synonyms])))
        yield from _static(child, path)


def _dynamic(options: Any, above: tuple[str, ...] = ()) -> Iterator[Choice]:
    """The choices that a task brings along: texts, or objects with `value`, `alias` and `children`."""
    for option in options if isinstance(options, list) else ():
        described = option if isinstance(option, dict) else {"value": option}
        if name := str(described.get("alias") or described.get("value") or ""):
            path = (*above, name)
            yield Choice(path, tuple(_clean([str(described.get("value") or "")])))
            yield from _dynamic(described.get("children"), path)


def _clean(names: Iterable[str]) -> Iterator[str]:
    return (name.strip() for name in names if name.strip())
