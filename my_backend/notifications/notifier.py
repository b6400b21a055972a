"""A thread that sends notifications of new events to NOTIFY_URL."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from my_backend import files
from my_backend.background import Background
from my_backend.errors import NotDelivered, NotificationRefused
from my_backend.notifications.notice import Notice
from my_backend.notifications.outbox import Outbox
from my_backend.notifications.receiver import Receiver
from my_backend.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
RESUME_SECONDS = 60.0  # for the file to become readable; then another one replaces it, and what waited in it is lost
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 900.0  # seconds between two tries to send; doubles each time


class Notifier(Background):
    """Sends each event of the sources once. Nothing waits for it, and nothing is done if NOTIFY_URL isn't set.

    A message counts as sent when the receiver has accepted it, so it is sent again if the process is killed just then.
    """

    def __init__(self, settings: Settings, outbox: Outbox, sources: Sequence[Callable[[], Iterable[Notice]]]) -> None:
        super().__init__("notifications")
        self._settings, self._outbox, self._sources = settings, outbox, sources
        self._receiver = Receiver(settings) if settings.notify_url.get_secret_value() else None
        self._resumed, self._failure = False, ""
        self._resume_until = time.monotonic() + RESUME_SECONDS
        self._next_try, self._pause = 0.0, FIRST_PAUSE  # (monotonic)

    def failure(self) -> str:
        """Why notifications can't be sent at the moment, from memory; "" if they can, or nobody wants any."""
        return self._failure

    def _tick(self) -> float | None:
        if self._receiver is None:
            return None
        if not self._resumed:
            self._resumed = self._outbox.resume() or time.monotonic() > self._resume_until
            if not self._resumed:
                return LOOK_SECONDS
        self._outbox.add([notice for source in self._sources for notice in source()])
        if time.monotonic() >= self._next_try:
            self._send(self._receiver)
        self._failure = self._outbox.failure()  # another server may have noted it
        return LOOK_SECONDS

    def _send(self, receiver: Receiver) -> None:
        """Sends what is waiting, unless another server is doing that; after a failure the next attempt has to wait."""
        try:
            with self._outbox.sending():
                for notice in self._outbox.waiting():
                    if self._stopping:
                        return
                    try:
                        receiver.send(notice.payload(self._settings.page))
                        self._outbox.done(notice)
                    except NotificationRefused as error:
                        log.warning("the notification %s was refused and won't be sent again: %s", notice.key, error)
                        self._outbox.done(notice, failure=str(error))
                    self._pause = FIRST_PAUSE
        except files.InUse:
            return
        except NotDelivered as error:
            if self._failure != str(error):  # log it once
                log.warning("can't deliver notifications: %s", error)
            self._outbox.failed(str(error))
            self._next_try = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
