"""A reader of bytes that others write: what is fuzzed."""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

Read = Callable[[bytes], None]
_NAME = re.compile(rb'"\w{1,30}"|\b\w{1,30}="|</?\w{1,30}')

# JSON that breaks readers: nested too deep, no UTF-8, numbers that no computer has.
HOSTILE_JSON = (
    *(b"[" * 2_000, b'{"a":' * 2_000, b"9" * 5_000, b"[1e999, NaN, -0]"),
    *(b"\xff\xfe{}", b"\xef\xbb\xbf{}", b""),
)


@dataclass(frozen=True)
class Target:
    """`open` returns the reader, which raises only if something is wrong: documented errors end in it.

    `seeds` are valid and hostile inputs, and `words` are parts of inputs that seeds don't have. `memory` is how many
    bytes one input of at most `longest` bytes may take.
    """

    open: Callable[[], AbstractContextManager[Read]]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[str, ...] = ()
    longest: int = 10_240
    memory: int = 100_000_000


def named(name: str, value: Any) -> bytes:
    """An input that names what reads it in its first line."""
    return name.encode() + b"\n" + (value if isinstance(value, bytes) else json.dumps(value).encode())


def words_of(target: Target) -> set[bytes]:
    """The parts that inputs are made of: the target's words, and the names of fields, tags and attributes in seeds."""
    return {word.encode() for word in target.words}.union(*map(_NAME.findall, target.seeds()))
