"""What the current thread works for: the ids of the request, the project and the job, for log lines and records."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039  never changed, only replaced


def ids() -> Mapping[str, str]:
    """`request_id`, `project` and `job`, as far as they are known here."""
    return _ids.get()


@contextmanager
def working_for(**more: str) -> Iterator[None]:
    """Adds ids for as long as the block lasts; "" for what is not known."""
    token = _ids.set({**_ids.get(), **{name: value for name, value in more.items() if value}})
    try:
        yield
    finally:
        _ids.reset(token)


def now_for(**more: str) -> None:
    """Adds ids until the enclosing block ends."""
    _ids.set({**_ids.get(), **more})
