"""The clients of Label Studio and image servers that a process keeps, so that tokens and connections last."""

import os
import threading
from collections import OrderedDict

from my_backend.errors import Conflict
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.project_connection import without_password
from my_backend.projects.registry import Credentials
from my_backend.settings import Settings
from safe_http.session import Origin, SafeSession

MOST_CLIENTS = 64  # each Label Studio has one per token; a client holds up to 32 connections


class Connections:
    """One client for each Label Studio and token; all threads of a process share them.

    Which private hosts they may connect to, the proxy, and the CA bundle come from the settings. A forked process makes
    clients of its own: two processes that use one socket would read each other's answers.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()  # another thread may have held the parent's during the fork
        self._clients: OrderedDict[tuple[str, str], LabelStudio] = OrderedDict()
        self._images = self._settings.open_session()

    def images(self) -> SafeSession:
        """The session for images of projects whose Label Studio is unknown."""
        if self._process != os.getpid():
            self._forget()
        return self._images

    def label_studio(self, credentials: Credentials | None = None) -> LabelStudio | None:
        """The client for the configured Label Studio, else for the one that `/setup` named, with its token.

        None if neither is known. Another URL or token is another client.
        """
        if self._process != os.getpid():
            self._forget()
        url, key = self._address(credentials)
        if not url:
            return None
        with self._lock:
            client = self._clients.get((url, key))
            if client is None:
                client = self._clients[url, key] = self._client(url, key)
                if len(self._clients) > MOST_CLIENTS:  # its connections close when its last user is done with it
                    self._clients.popitem(last=False)
            self._clients.move_to_end((url, key))
            return client

    def needed(self, credentials: Credentials | None, token: str = "") -> LabelStudio:
        """Like `label_studio`, or `as_person` if there is a token; raises Conflict if the URL is unknown."""
        client = self.as_person(token, credentials) if token else self.label_studio(credentials)
        if client is None:
            raise Conflict("Label Studio's URL is unknown: set LABEL_STUDIO_URL")
        return client

    def as_person(self, token: str, credentials: Credentials | None = None) -> LabelStudio | None:
        """A client of the same Label Studio with a person's own token; it isn't kept."""
        url, _ = self._address(credentials)
        return self._client(url, token, is_persons=True) if url else None

    def _address(self, credentials: Credentials | None) -> tuple[str, str]:
        """Label Studio's URL and the backend's token, "" if unknown."""
        url, key = self._settings.label_studio_url, self._settings.label_studio_api_key.get_secret_value()
        if not (url and key) and credentials and _is_at(credentials.hostname, url):
            # A user name would be sent instead of the token.
            return without_password(credentials.hostname), credentials.access_token
        return url, key

    def _client(self, url: str, key: str, *, is_persons: bool = False) -> LabelStudio:
        # Images may come from Label Studio itself, even if that is a private address.
        origin = Origin.of(url)
        session = self._settings.open_session(f"{origin.host}:{origin.port}")
        return LabelStudio(url, key, session, is_persons=is_persons)


def _is_at(hostname: str, url: str) -> bool:
    """Whether `/setup` named an address, and the configured one if there is one."""
    try:
        return Origin.of(hostname) == Origin.of(url or hostname)
    except ValueError:
        return False
