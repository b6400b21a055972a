"""Downloads many images: waits if a server asks for it, and says why a download failed."""

import threading
import time
from collections import Counter
from email.utils import parsedate_to_datetime

import requests

from safe_http.content import is_image, what_came
from safe_http.failures import reason_of, reason_of_status, remedy_of
from safe_http.session import Origin, explain, read_body
from safe_http.settings import FetchSettings

ATTEMPTS = 5
PAUSE_SECONDS = 1.0  # before the second attempt; each further pause is twice as long
LONGEST_PAUSE = 120.0  # seconds that a server may ask for
PASSING = (408, 429, 500, 502, 503, 504)  # statuses after which the same request may succeed
TOO_MANY_REQUESTS = 429
REDIRECTION = 300  # statuses from here on
MOST_REFUSED = 16  # images of a server in a row; then its other images fail at once, so that those of others get on


class DownloadError(Exception):
    """An image can't be downloaded; `reason` is a code to count. The message contains no secret."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Downloader:
    """Fetches images from any thread, within the settings' limits, until `stopped` is set."""

    def __init__(self, settings: FetchSettings, stopped: threading.Event) -> None:
        self._settings, self._stopped = settings, stopped
        self._session = settings.open_session()
        self._pauses: dict[Origin, float] = {}  # until when to leave a server alone (monotonic)
        self._refused: Counter[Origin] = Counter()  # images in a row that a server was too busy for
        self._lock = threading.Lock()

    def __call__(self, url: str) -> bytes:
        """The image's bytes, which begin as an image does; raises DownloadError.

        After a failure that may pass, or if the download is cut short, it tries again. A server that answers 429, or
        names a time in Retry-After, gets no request of any thread until then. If it has refused many images in a row,
        it gets none at all.
        """
        try:
            body = self._body(url)
        except (requests.RequestException, OSError, ValueError) as error:
            raise DownloadError(f"{explain(error)}{remedy_of(error)}", reason_of(error)) from None
        if not is_image(body):
            raise DownloadError(what_came(body), "not_an_image")
        return body

    def _body(self, url: str) -> bytes:
        origin = Origin.of(url)
        for attempt in range(ATTEMPTS):
            self._wait_for(origin)
            deadline = time.monotonic() + self._settings.image_seconds
            response = self._session.request("GET", url, limits=self._settings.limits, deadline=deadline)
            if response.ok:
                with self._lock:
                    del self._refused[origin]
                try:
                    body = read_body(response, max_bytes=self._settings.max_image_bytes, deadline=deadline)
                    if not body and response.status_code >= REDIRECTION:  # it doesn't say where to
                        raise _refused(response.status_code, None)
                    return body
                except requests.ConnectionError:  # the server closed the connection before the end
                    if attempt == ATTEMPTS - 1:
                        raise
                    self._stopped.wait(PAUSE_SECONDS * 2**attempt)
                    continue
            response.close()
            asked, may_pass = _seconds_asked(response), response.status_code in PASSING
            is_busy = may_pass and (asked is not None or response.status_code == TOO_MANY_REQUESTS)
            if not may_pass or attempt == ATTEMPTS - 1 or (asked or 0) > LONGEST_PAUSE:
                with self._lock:
                    self._refused[origin] = self._refused[origin] + 1 if is_busy else 0
                raise _refused(response.status_code, asked)
            pause = PAUSE_SECONDS * 2**attempt if asked is None else asked
            if is_busy:
                self._pause(origin, pause)
            else:
                self._stopped.wait(pause)
        raise AssertionError("the last attempt has returned or raised")

    def _pause(self, origin: Origin, seconds: float) -> None:
        with self._lock:
            self._pauses[origin] = max(self._pauses.get(origin, 0.0), time.monotonic() + seconds)

    def _wait_for(self, origin: Origin) -> None:
        while not self._stopped.is_set() and (left := self._pauses.get(origin, 0.0) - time.monotonic()) > 0:
            self._stopped.wait(left)
        if self._stopped.is_set():
            raise DownloadError("interrupted", "interrupted")
        if self._refused[origin] >= MOST_REFUSED:
            why = f"its server refused {MOST_REFUSED} other images in a row: try again later"
            raise DownloadError(why, "too_many_requests")

    def close(self) -> None:
        """Closes the idle connections."""
        self._session.close()


def _seconds_asked(response: requests.Response) -> float | None:
    """How long the server asks to wait (RFC 9110, Retry-After: seconds or a date); None if it doesn't say."""
    said = response.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdecimal():
        return float(said[:9])
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _refused(status: int, asked: float | None) -> DownloadError:
    later = f" and asks clients to wait {asked:,.0f} s: try again later" if asked and asked > LONGEST_PAUSE else ""
    reason = "too_many_requests" if status == TOO_MANY_REQUESTS else reason_of_status(status)
    return DownloadError(f"its server answered {status}{later}", reason)
