"""Which notifications are known and which still have to be sent; on disk, shared by all servers of a MODEL_DIR."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import files
from my_backend.files import Moment
from my_backend.notifications.notice import Notice
from safe_http.redaction import said

log = logging.getLogger(__name__)

OUTBOX_FILE = ".notifications.json"  # next to the projects' folders
FORGET_SECONDS = 3600.0  # an event that hasn't been seen for so long is news if it is seen again
STAMP_SECONDS = 300.0  # between two writes that only note what is still seen
STALE_SECONDS = 86_400.0  # what happened longer ago is news no more
MOST_WAITING = 100


@dataclass(frozen=True)
class _State:
    """`seen` has the time at which each known event was last seen, by its key; `failure` says why sending failed."""

    seen: dict[str, Moment] = field(default_factory=dict)
    waiting: list[Notice] = field(default_factory=list)
    failure: str = ""


_STATE = TypeAdapter(_State)


class Outbox:
    """Takes each event once, whichever servers see it, and keeps it until it is sent or stale.

    If the disk can't be written, the state is kept in memory, because people must be notified of that problem, too.
    """

    def __init__(self, projects_folder: Path) -> None:
        self._folder = projects_folder
        self._path = projects_folder / OUTBOX_FILE
        self._unsaved: _State | None = None
        self._last: _State | None = None

    def resume(self) -> bool:
        """Counts all known events as just seen, because nobody was watching until now; NOTIFY_URL may be another.

        Returns False if the file can't be used: perhaps it only can't be opened at the moment.
        """
        with self._changing():
            if state := self._read():
                self._write(replace(state, seen=dict.fromkeys(state.seen, time.time()), failure=""))
            return state is not None or not files.is_damaged(self._path)

    def add(self, notices: Sequence[Notice]) -> None:
        """Takes the events that can be seen now; those that are new wait to be sent.

        At the very first call, training runs that ended earlier count as known, but problems don't.
        """
        now = time.time()
        with self._changing():
            known = self._read()
            state = known or _State()
            new = [notice for notice in notices if notice.key not in state.seen]
            stamped = {notice.key: now for notice in notices}
            if known is not None and not new and all(now - state.seen[key] < STAMP_SECONDS for key in stamped):
                return
            seen = {key: when for key, when in state.seen.items() if now - when < FORGET_SECONDS} | stamped
            news = [notice for notice in new if notice.event == "problem" or known is not None]
            self._write(replace(state, seen=seen, waiting=[*_fresh(state.waiting), *_fresh(news)][-MOST_WAITING:]))

    def waiting(self) -> list[Notice]:
        """The events that still have to be sent, oldest first."""
        return _fresh((self._read() or _State()).waiting)

    def failure(self) -> str:
        """Why the last attempt to send failed; "" if it didn't."""
        return (self._read() or _State()).failure

    def done(self, notice: Notice, failure: str = "") -> None:
        """Notes that the event no longer needs to be sent; `failure` says why the receiver has refused it."""
        self._change(lambda state: replace(state, waiting=_without(state.waiting, notice), failure=failure))

    def failed(self, why: str) -> None:
        """Notes why an attempt failed; the event keeps waiting."""
        self._change(lambda state: state if state.failure == why else replace(state, failure=why))

    def delivered(self) -> None:
        """Notes that the receiver has accepted a message that didn't wait here: nothing is wrong any longer."""
        self._change(lambda state: replace(state, failure=""))

    def sending(self) -> AbstractContextManager[None]:
        """A claim that one server holds while it sends; raises InUse if another one does."""
        return _holding(files.claimed(self._folder / ".notifications-sending"))

    def _change(self, change: Callable[[_State], _State]) -> None:
        with self._changing():
            state = self._read() or _State()
            if (changed := change(state)) != state:
                self._write(changed)

    def _changing(self) -> AbstractContextManager[None]:
        return _holding(files.locked(self._folder / ".notifications"))

    def _read(self) -> _State | None:
        """The state; None if there is none yet, or the file is damaged."""
        if self._unsaved:
            return self._unsaved
        found = files.examine(self._path, files.json_of(_STATE))
        if isinstance(found, files.Damaged):
            # If the file can't be opened at the moment, an empty state must not replace it: its messages would be lost.
            return self._last if found.unopened else None
        self._last = found
        return found

    def _write(self, state: _State) -> None:
        try:
            files.write_json(self._path, asdict(state), mode=0o600)
            self._unsaved, self._last = None, state
        except OSError as error:
            if self._unsaved is None:
                log.warning("can't save which notifications were sent: %s", said(error))
            self._unsaved = state


@contextmanager
def _holding(lock: AbstractContextManager[None]) -> Iterator[None]:
    """Holds the lock if possible: on a read-only disk, sending twice is better than not at all."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(lock)
        yield


def _fresh(notices: Sequence[Notice]) -> list[Notice]:
    return [notice for notice in notices if time.time() - notice.happened < STALE_SECONDS]


def _without(notices: Sequence[Notice], sent: Notice) -> list[Notice]:
    return [notice for notice in notices if notice.key != sent.key]
