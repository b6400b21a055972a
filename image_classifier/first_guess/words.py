"""Finds the ImageNet classes that are kinds of what a choice names: for *Dogs*, all breeds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

_TABLE = "words.txt"
# Between the names of a choice such as "fruit and vegetables"; blanks stand alone.
_SEVERAL = re.compile(r" ?[,;/&+|] ?| (?:and|or) ")
_LONGEST = 100  # characters of a name; the table's are shorter
# Endings of plurals and of their singulars, those of WordNet's morphological rules
_PLURALS = {"s": "", "ses": "s", "xes": "x", "zes": "z", "ches": "ch", "shes": "sh", "men": "man", "ies": "y"}


def classes_of_choices(names: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The numbers of the ImageNet classes that are kinds of a choice, for each choice that has any.

    `names` has the names of each choice; the first known one counts. A class that is a kind of several choices belongs
    to the one with the fewest classes: of *Animals* and *Birds*, a robin is one of the birds.
    """
    found = {choice: next(filter(None, map(_classes_of, called)), frozenset()) for choice, called in names.items()}
    owners: dict[int, str] = {}
    for choice in sorted(found, key=lambda one: len(found[one])):
        for number in found[choice]:
            owners.setdefault(number, choice)
    kept = {choice: sorted(number for number in found[choice] if owners[number] == choice) for choice in names}
    return {choice: numbers for choice, numbers in kept.items() if numbers}


def _classes_of(name: str) -> frozenset[int]:
    """The classes of the whole name if it is in the table, otherwise those of its parts."""
    words = " ".join(name[:_LONGEST].casefold().replace("_", " ").split())
    return _of_word(words) or frozenset().union(*map(_of_word, _SEVERAL.split(words)))


def _of_word(word: str) -> frozenset[int]:
    return next((_words()[form] for form in _forms(word) if form in _words()), frozenset())


def _forms(word: str) -> Iterator[str]:
    yield word
    for plural, singular in _PLURALS.items():
        if word.endswith(plural):
            yield word.removesuffix(plural) + singular


@lru_cache(maxsize=1)
def _words() -> dict[str, frozenset[int]]:
    """The table: word → numbers of classes. benchmarks/imagenet_words.py makes it."""
    text = (files(__package__) / _TABLE).read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if not line.startswith("#"))
    return {word: frozenset(_numbers(ranges)) for word, ranges in rows}


def _numbers(ranges: str) -> Iterator[int]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
