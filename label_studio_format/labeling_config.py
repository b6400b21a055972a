"""Parses the labeling config: which choices it offers for which image, and their names in annotations.

A `Taxonomy` tag is read like a `Choices` tag with nested choices; only its results have another type.
"""

import threading
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from label_studio_format.image_value import image_field, value_of, why_no_field

DEEPEST = 100  # tags below a Choices tag: a path has all names above it, so the total size grows quadratically
# Limits on a config's cost, however short its text is: it is cached in memory, and parsed again after eviction.
MOST_CHARACTERS = 2_000_000
MOST_TAGS = 50_000
MOST_EXPANSION = 10  # times the text's length, caused by long namespaces
MOST_BYTES = 40_000_000  # for its choices in memory: some 50,000
REMEMBERED_BYTES = 80_000_000  # for all configs together
MOST_BYTES_OF_TASK = 8_000_000  # for the dynamic choices of one task

Json = dict[str, Any]

# The type of a tag's results, and the key of their value.
ResultType = Literal["choices", "taxonomy"]
# A Taxonomy is learned only if there are no Choices, which older releases learned.
RESULT_TYPES: dict[str, ResultType] = {"Choices": "choices", "Taxonomy": "taxonomy"}


@dataclass(frozen=True)
class Choice:
    """A `Choice` tag, or a dynamic choice from a task's data."""

    path: tuple[str, ...]  # the names from the outermost Choice down to this one, as in annotations
    also_called: tuple[str, ...] = ()  # the value if there is an alias, and predicted_values

    @property
    def folded(self) -> set[str]:
        """What it is called, without the names above it, if case is ignored."""
        return {_folded(called) for called in (self.path[-1], *self.also_called)}

    @property
    def cost(self) -> int:
        """Approximate memory in bytes: a record for each name, and the characters twice."""
        characters = sum(map(len, self.path)) + sum(map(len, self.also_called))
        return 600 + 8 * len(self.path) + 300 * len(self.also_called) + 8 * characters


@dataclass(frozen=True)
class ImageChoices:
    """A `Choices` or `Taxonomy` tag that labels an `Image` tag, and the task field with its URL (see `image_url`)."""

    from_name: str
    to_name: str
    field: str
    offered: tuple[Choice, ...]
    multiple: bool = False
    nested: bool = False
    dynamic_field: str = ""  # the task field with dynamic choices
    type: ResultType = "choices"
    leaves_only: bool = False  # of those offered, a choice that has others below it can't be chosen
    other_tags: frozenset[str] = frozenset()  # the names of the labeling config's other Choices and Taxonomy tags

    @cached_property
    def _by_name(self) -> dict[str, Choice]:
        """A name for each choice: its own, or its whole path if another choice has the same name."""
        choices = _leaves(self.offered) if self.leaves_only else self.offered
        own = Counter(choice.path[-1] for choice in choices)
        return {choice.path[-1] if own[choice.path[-1]] == 1 else "/".join(choice.path): choice for choice in choices}

    @cached_property
    def _names(self) -> dict[str, str]:
        """Every spelling of a choice → its name; "" for ambiguous spellings."""
        return _unambiguous(
            (called, name)
            for name, choice in self._by_name.items()
            for called in {"/".join(choice.path), *choice.also_called} - self._by_name.keys()
        ) | {name: name for name in self._by_name}

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The names to learn and predict, in the config's order."""
        return tuple(self._by_name)

    @property
    def spellings(self) -> dict[str, tuple[str, ...]]:
        """What each choice is called: its own name, without those above it, and the other accepted ones."""
        return {name: (choice.path[-1], *choice.also_called) for name, choice in self._by_name.items()}

    def name_of(self, called: Any) -> str:
        """The choice's name for a value in an annotation or prediction; "" if there is no such choice.

        For a nested choice the value is a path, or its last part alone. Other accepted spellings are an alias' value
        and predicted_values. If nothing matches exactly, case is ignored, and whether é is one character or two.
        """
        if isinstance(called, list):
            path = list(map(str, called))
            if found := self._names.get("/".join(path)):
                return found
            found = self.name_of(path[-1]) if path else ""
            return found if found and self._is_below(found, path[:-1]) else ""
        found = self._names.get(str(called))
        return found or self._folded_names.get(_folded(str(called)), "")

    def _is_below(self, name: str, above: Sequence[str]) -> bool:
        """Whether the names above in an annotation's path, if it has any, are spellings of those above this choice.

        Otherwise, a choice that was removed would be taken for one of the same name elsewhere.
        """
        path = self._by_name[name].path
        return not above or (
            len(above) == len(path) - 1
            and all(_folded(called) in self._at(path[:depth]).folded for depth, called in enumerate(above, 1))
        )

    @cached_property
    def _by_path(self) -> dict[tuple[str, ...], Choice]:
        return {choice.path: choice for choice in self.offered}

    def _at(self, path: tuple[str, ...]) -> Choice:
        """The choice at a path; an export may name choices whose parents nobody has chosen."""
        return self._by_path.get(path) or Choice(path)

    @cached_property
    def _folded_names(self) -> dict[str, str]:
        return _unambiguous((_folded(called), name) for called, name in self._names.items())

    def for_task(self, data: Mapping[str, Any]) -> "ImageChoices":
        """The same, plus the task's dynamic choices if the config has any."""
        if not self.dynamic_field:
            return self
        brought = _affordable(_dynamic(value_of(data, self.dynamic_field)), MOST_BYTES_OF_TASK)
        return replace(self, offered=(*self.offered, *brought), dynamic_field="")

    def prediction(self, names: Iterable[str], score: float) -> Json:
        """A prediction in Label Studio's format; `score` is from 0 to 1."""
        paths = [self._by_name[name].path for name in names]
        region = {
            "from_name": self.from_name,
            "to_name": self.to_name,
            "type": self.type,
            "value": {self.type: [list(path) if self.nested else path[-1] for path in paths]},
            "score": score,
        }
        return {"result": [region], "score": score}


@dataclass(frozen=True)
class LabelConfig:
    """A parsed labeling config: the choices for an image, or a problem that explains why there are none."""

    image_choices: ImageChoices | None
    problem: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        return self.image_choices.choices if self.image_choices else ()


class _Remembered:
    """A cache of recently parsed configs, bounded by memory."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._configs: OrderedDict[tuple[str, str], tuple[LabelConfig, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[str, str]) -> LabelConfig | None:
        with self._lock:
            if key not in self._configs:
                return None
            self._configs.move_to_end(key)
            return self._configs[key][0]

    def add(self, key: tuple[str, str], config: LabelConfig) -> None:
        offered = config.image_choices.offered if config.image_choices else ()
        cost = 1000 + 4 * len(key[0]) + sum(choice.cost for choice in offered)
        with self._lock:
            if key in self._configs:
                return
            self._configs[key] = config, cost
            self._bytes += cost
            while self._bytes > REMEMBERED_BYTES:
                self._bytes -= self._configs.popitem(last=False)[1][1]


_remembered = _Remembered()


def parse_label_config(xml: str, choices_name: str = "") -> LabelConfig:
    """Finds the tag to learn: the one named `choices_name`, or else the first usable `Choices`, then `Taxonomy`.

    Never raises; if the config isn't usable, `problem` says why.
    """
    config = _remembered.get((xml, choices_name))
    if config is None:
        config = _parse(xml, choices_name)
        _remembered.add((xml, choices_name), config)
    return config


class _BoundedBuilder(TreeBuilder):
    """Raises ValueError if there are too many tags, or if they become much longer than the XML text."""

    def __init__(self, text_length: int) -> None:
        super().__init__()
        self._tags = MOST_TAGS
        self._characters = MOST_EXPANSION * text_length

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self._tags -= 1
        self._characters -= len(tag) + sum(len(name) + len(value) for name, value in attributes.items())
        if self._tags < 0:
            raise ValueError(f"more than {MOST_TAGS:,} tags")
        if self._characters < 0:
            raise ValueError("its namespaces expand it to many times its length")
        return super().start(tag, attributes)


def _parse(xml: str, choices_name: str) -> LabelConfig:
    if len(xml) > MOST_CHARACTERS:
        return LabelConfig(None, f"The labeling config has more than {MOST_CHARACTERS:,} characters.")
    if not xml.strip():
        return LabelConfig(None, "The project has no labeling config yet: add an Image and a Choices tag.")
    parser = DefusedXMLParser(target=_BoundedBuilder(len(xml)), forbid_dtd=True)  # a DTD can repeat long attributes
    try:
        parser.feed(xml)
        root = parser.close()
    except (ParseError, DefusedXmlException, ValueError) as error:
        return LabelConfig(None, f"The labeling config isn't valid XML: {error}.")
    images = {tag.get("name", ""): tag for tag in root.iter("Image")}
    if not any(name and (tag.get("value") or tag.get("valueList")) for name, tag in images.items()):
        return LabelConfig(None, 'The labeling config has no <Image name="…" value="$…"> to classify.')
    everywhere = [tag for name in RESULT_TYPES for tag in root.iter(name)]
    names = {tag.get("name", "") for tag in everywhere}
    tags = [tag for tag in everywhere if tag.get("toName") in images]
    if not tags:
        return LabelConfig(None, "The labeling config has no <Choices> or <Taxonomy> tag whose toName is an Image.")
    if choices_name:
        tags = [tag for tag in tags if tag.get("name") == choices_name]
        if not tags:
            return LabelConfig(
                None,
                f"The labeling config has no Choices or Taxonomy tag named {choices_name!r}, the value of CHOICES.",
            )
    problems = []
    for tag in tags:
        problem = _why_unusable(tag, images)
        if not problem:
            return LabelConfig(_image_choices(tag, images, frozenset(names) - {tag.get("name")}))
        problems.append(f'<{tag.tag} name="{tag.get("name", "")[:100]}">: {problem}.')
    return LabelConfig(None, " ".join(problems[:5]))


def _why_unusable(tag: Element, images: Mapping[str, Element]) -> str:
    if not tag.get("name"):
        return "it has no name"
    if problem := why_no_field(images[tag.get("toName", "")]):
        return problem
    if any(_is_true(tag.get(name)) for name in ("perRegion", "perItem", "labeling")):
        return "it labels regions or items (perRegion, perItem, labeling), not the image"
    if tag.get("apiUrl"):
        return "its choices come from another server (apiUrl)"
    if _is_deeper(tag, DEEPEST):
        return f"its tags are nested more than {DEEPEST} levels deep"
    if next(_static(tag), None) is None and not tag.get("value"):
        return "it has no <Choice>"
    if sum(1 for _ in _static(tag)) > sum(1 for _ in _affordable(_static(tag), MOST_BYTES)):
        return "it has too many choices (each choice's name includes the names of all choices above it)"
    return ""


def _image_choices(tag: Element, images: Mapping[str, Element], other_tags: frozenset[str]) -> ImageChoices:
    to_name = tag.get("toName", "")
    is_taxonomy = tag.tag == "Taxonomy"
    return ImageChoices(
        from_name=tag.get("name", ""),
        to_name=to_name,
        field=image_field(images[to_name]),
        offered=tuple(dict.fromkeys(_static(tag))),
        multiple=tag.get("maxUsages") != "1" if is_taxonomy else tag.get("choice", "single") == "multiple",
        nested=is_taxonomy or _is_true(tag.get("allowNested")),
        dynamic_field=tag.get("value", "").removeprefix("$"),
        type=RESULT_TYPES[tag.tag],
        leaves_only=_is_true(tag.get("leafsOnly")),
        other_tags=other_tags,
    )


def _folded(name: str) -> str:
    """The name without differences in case and in Unicode's forms: macOS decomposes é in names of files."""
    return unicodedata.normalize("NFC", name.casefold())


def _unambiguous(spellings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The name for each spelling; "" if it is a spelling of several names."""
    names: dict[str, str] = {}
    for called, name in spellings:
        names[called] = name if names.setdefault(called, name) == name else ""
    return names


def _leaves(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """The choices without others below them."""
    inner = {choice.path[:-1] for choice in choices}
    return tuple(choice for choice in choices if choice.path not in inner)


def _affordable(choices: Iterable[Choice], most_bytes: int) -> Iterator[Choice]:
    """The first choices that fit into `most_bytes` of memory."""
    for choice in choices:
        most_bytes -= choice.cost
        if most_bytes < 0:
            return
        yield choice


def _is_true(value: str | None) -> bool:
    return (value or "").lower() in ("true", "yes", "1")


def _is_deeper(tag: Element, deepest: int) -> bool:
    level = [tag]
    for _ in range(deepest):
        level = [child for above in level for child in above]
    return any(len(above) for above in level)


def _static(tag: Element, above: tuple[str, ...] = ()) -> Iterator[Choice]:
    """The Choice tags below a tag, outer ones first; other tags in between are only layout."""
    for child in tag:
        path = above
        if child.tag == "Choice" and (name := child.get("alias") or child.get("value")):
            path = (*above, name)
            synonyms = (child.get("predicted_values") or "").split(",")
            yield Choice(path, tuple(_clean([child.get("value", ""), *synonyms])))
        yield from _static(child, path)


def _dynamic(options: Any, above: tuple[str, ...] = ()) -> Iterator[Choice]:
    """A task's dynamic choices: texts, or objects with `value`, `alias` and `children`."""
    for option in options if isinstance(options, list) and len(above) < DEEPEST else ():
        described = option if isinstance(option, dict) else {"value": option}
        if name := str(described.get("alias") or described.get("value") or ""):
            path = (*above, name)
            yield Choice(path, tuple(_clean([str(described.get("value") or "")])))
            yield from _dynamic(described.get("children"), path)


def _clean(names: Iterable[str]) -> Iterator[str]:
    return (name.strip() for name in names if name.strip())
