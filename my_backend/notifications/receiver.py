"""Sends notifications to NOTIFY_URL: an incoming webhook of Slack, Mattermost or another program."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import requests

from my_backend.errors import NotDelivered, NotificationRefused
from my_backend.notifications.notice import Json
from my_backend.settings import Settings
from safe_http.redaction import shortened
from safe_http.session import Limits, Origin, explain, read_body

SECONDS = 20.0  # for one message, with its answer
ANSWER_BYTES = 10_000
SHOWN_CHARACTERS = 100  # of an answer that explains a refusal
REFUSED = (400, 413, 415, 422)  # this message isn't accepted; others may be


class Receiver:
    """The program behind NOTIFY_URL, which may be in the local network. Only its host is ever shown."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.notify_url.get_secret_value()
        origin = Origin.of(self._url)
        self.host = origin.host
        self._root = f"{origin.scheme}://{f'[{origin.host}]' if ':' in origin.host else origin.host}:{origin.port}/"
        self._session = settings.open_session(f"{origin.host}:{origin.port}")

    def send(self, payload: Json) -> None:
        """Sends one message; raises NotDelivered, and NotificationRefused if it needn't be sent again."""
        with self._telling_why():
            status, answer = self._request("POST", self._url, json=payload)
        if not 200 <= status < 300:
            why = f"{self.host} answered {status}{f' ({answer})' if answer else ''}"
            raise NotificationRefused(why) if status in REFUSED else NotDelivered(why)

    def check_reachable(self) -> None:
        """Raises NotDelivered unless the host answers; this request sends no message and doesn't contain the token."""
        # Many receivers redirect this address to a page for people.
        with self._telling_why(), suppress(requests.TooManyRedirects):
            self._request("HEAD", self._root)

    def _request(self, method: str, url: str, json: Json | None = None) -> tuple[int, str]:
        """The status, and the beginning of the answer; raises requests.RequestException."""
        deadline = time.monotonic() + SECONDS
        response = self._session.request(method, url, json=json, limits=Limits(redirects=0), deadline=deadline)
        try:
            body = read_body(response, max_bytes=ANSWER_BYTES, deadline=deadline)
        except requests.RequestException:  # the status tells enough: a message that was accepted isn't sent again
            body = b""
        return response.status_code, shortened(" ".join(body.decode(errors="replace").split()), SHOWN_CHARACTERS)

    @contextmanager
    def _telling_why(self) -> Iterator[None]:
        try:
            yield
        except requests.RequestException as error:
            raise NotDelivered(f"no response from {self.host}: {explain(error)}") from None
