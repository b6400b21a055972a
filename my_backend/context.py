"""The ids of the request, project and job that the current thread works for, for log lines and records."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039  replaced, never mutated


def ids() -> Mapping[str, str]:
    """`request_id`, `project` and `job`, as far as they are known."""
    return _ids.get()


@contextmanager
def working_for(**more: str) -> Iterator[None]:
    """Adds ids until the block ends; empty ones are ignored."""
    token = _ids.set({**_ids.get(), **{name: value for name, value in more.items() if value}})
    try:
        yield
    finally:
        _ids.reset(token)


def now_for(**more: str) -> None:
    """Adds ids until the enclosing block ends."""
    _ids.set({**_ids.get(), **more})
