"""Turns a task's image URL into a local file: safely, within limits, and cached."""

import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import requests

from my_backend.counters.in_process import ImageCounts
from my_backend.errors import BackendError, MediaError
from my_backend.label_studio import data_uri
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media_cache import Known, MediaCache, MediaFile, size_of
from my_backend.label_studio.media_errors import explain_status, explain_storage, is_outage, may_pass
from my_backend.label_studio.media_threads import MediaThreads, seconds_until
from my_backend.label_studio.media_urls import CLOUD, in_label_studio, url_to_request
from my_backend.projects.corrections import KEPT
from my_backend.projects.registry import Credentials
from my_backend.settings import Settings
from safe_http.content import is_image, what_came
from safe_http.download import REDIRECTION
from safe_http.failures import reason_of, reason_of_status, remedy_of
from safe_http.session import Limits, SafeSession, as_browsers_read, explain, read_body, url_without_secrets

log = logging.getLogger(__name__)

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageLimits:
    """Limits for one image: its size, the seconds to fetch it including redirects, and those in `http`.

    A URL's content is assumed unchanged for `trust_seconds`, or longer while its server is down; uploads never change.
    """

    max_bytes: int = 100_000_000
    seconds: float = 30.0
    trust_seconds: float = 86_400.0
    http: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class MediaRequest:
    """A task's image: its URL, normalized as browsers do, and the task's id, which Label Studio needs to sign links."""

    url: str
    task_id: int | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(CLOUD):  # no browser reads these, and Label Studio signs the key as it is
            object.__setattr__(self, "url", as_browsers_read(self.url))


@dataclass(frozen=True)
class MediaPool:
    """The threads that fetch images and the known URLs, for all projects of a process, until `shutdown`.

    Imports and training runs, which have no deadline, use separate threads, and a project or server uses only some of
    the threads, so that an unresponsive storage can't keep the requests of other projects waiting for a thread.
    """

    awaited: MediaThreads
    background: MediaThreads
    known: Known = field(default_factory=dict)

    def __enter__(self) -> "MediaPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Ends both kinds of threads; the arguments are an executor's."""
        for threads in (self.awaited, self.background):
            threads.shutdown(wait=wait, cancel_futures=cancel_futures)


class Media:
    """Fetches the images of one project's tasks into the cache that all projects share."""

    def __init__(
        self,
        folder: Path,
        session: SafeSession,
        label_studio: LabelStudio | None,
        pool: MediaPool,
        limits: ImageLimits = ImageLimits(),
        *,
        kept: Path | None = None,
        counts: ImageCounts | None = None,
        missed: list[MediaRequest] | None = None,
        project: str = "",
    ) -> None:
        """`kept` is a folder of images, named by digest, that tasks refer to as `kept:<digest>`.

        Images that can't be read now, but perhaps later, are added to `missed`. `project` is the project's uid.
        """
        self._cache = MediaCache(folder, pool.known)
        self._session, self._limits = session, limits
        self._label_studio = label_studio
        self._kept = kept
        self._counts = counts or ImageCounts()
        self._missed = missed
        self._project = project
        self._pool = pool

    def fetch_all(
        self, requests: Sequence[MediaRequest], deadline: float = float("inf")
    ) -> list[MediaFile | MediaError]:
        """One result for each request, in order; an error for images not there by `deadline` (monotonic).

        Without a deadline it uses separate threads, so it doesn't delay requests that have one. It uses only some of
        the threads.
        """
        threads = self._pool.background if deadline == float("inf") else self._pool.awaited
        results: dict[MediaRequest, MediaFile | MediaError] = {}
        futures: dict[MediaRequest, Future[MediaFile]] = {}
        call = object()
        for request in dict.fromkeys(requests):
            if cached := self._looked_up(request):
                results[request] = cached
            else:
                fetch, server = partial(self._fetch_once, request, deadline), self._server(request.url)
                begun = threads.begin(fetch, deadline, call=call, project=self._project, server=server)
                futures[request] = begun or Future()  # too late to begin
        wait_for(futures.values(), timeout=seconds_until(deadline))
        for request, future in futures.items():
            results[request] = self._outcome(future, request)
        return [results[request] for request in requests]

    def _outcome(self, future: Future[MediaFile], request: MediaRequest) -> MediaFile | MediaError:
        if not future.done():
            never_began = future.cancel()  # otherwise its thread logs the outcome
            said = f"{_short(request.url)}: fetching it took too long"
            if stored := self._cache.stored(self._key(request)):
                return _stored_instead(said, stored) if never_began else stored[0]
            return MediaError(said, "too_late")
        try:
            return future.result()
        except MediaError as error:
            return error

    def fetch(self, request: MediaRequest, deadline: float = float("inf")) -> MediaFile:
        """Fetches one image, or raises MediaError with the task, the URL without its secrets, and a fix."""
        return self._looked_up(request) or self._fetch(request, deadline)

    def _fetch_once(self, request: MediaRequest, deadline: float) -> MediaFile:
        """Fetches the image unless another request did so while this one waited for a thread."""
        return self.cached(request) or self._fetch(request, deadline)

    def _looked_up(self, request: MediaRequest) -> MediaFile | None:
        cached = self.cached(request)
        self._counts.looked_up(cached is not None)
        return cached

    def _fetch(self, request: MediaRequest, deadline: float) -> MediaFile:
        started = time.perf_counter()
        outcome, size = "ok", 0
        try:
            body = self._body(request.url, request.task_id, min(deadline, time.monotonic() + self._limits.seconds))
            size = len(body)
            _check_is_image(body)
            return self._cache.store(self._key(request), body)
        except (requests.RequestException, BackendError, OSError, ValueError) as error:
            outcome = error.reason if isinstance(error, MediaError) else reason_of(error)
            place = f"task {request.task_id}: " if request.task_id is not None else ""
            said = f"{place}{_short(request.url)}: {explain(error)}"
            if is_outage(error, outcome) and (stored := self._cache.stored(self._key(request))):
                return _stored_instead(said, stored)
            if self._missed is not None and may_pass(request.url, error, outcome):
                self._missed.append(request)
            raise MediaError(f"{said}{remedy_of(error)}", outcome) from error
        finally:
            if not request.url.startswith(("data:", KEPT)):
                self._counts.fetched(outcome, time.perf_counter() - started, size)

    def take_in(self, body: bytes) -> MediaFile:
        """Stores an image from a request's body, within the same limits; tasks refer to it as `kept:<digest>`.

        It stays as long as the cache has room. Raises MediaError.
        """
        if len(body) > self._limits.max_bytes:
            raise MediaError(f"more than {self._limits.max_bytes:,} bytes; raise MAX_IMAGE_BYTES", "too_large")
        _check_is_image(body)
        return self._cache.store(self._key(MediaRequest(KEPT + sha256(body).hexdigest())), body)

    def _body(self, url: str, task_id: int | None, deadline: float) -> bytes:
        if url.startswith("data:"):
            return data_uri.content_of(url, self._limits.max_bytes)
        if url.startswith(KEPT):
            return self._read_kept(url.removeprefix(KEPT))
        if deadline <= time.monotonic():
            raise MediaError("the time limit was reached before it could be fetched", "too_late")
        target = url_to_request(url, task_id, self._label_studio.url if self._label_studio else "")
        # get() sends the token to Label Studio only, whatever the URL
        if self._label_studio is not None:
            response = self._label_studio.get(target, limits=self._limits.http, deadline=deadline)
        else:
            response = self._session.request("GET", target, limits=self._limits.http, deadline=deadline)
        if not response.ok:
            status = response.status_code
            if self._label_studio is not None and self._label_studio.base.contains(response.url):
                response.close()
                raise MediaError(explain_status(status, url), reason_of_status(status))
            raise MediaError(explain_storage(response, url, deadline), reason_of_status(status))
        body = read_body(response, max_bytes=self._limits.max_bytes, deadline=deadline)
        if not body and response.status_code >= REDIRECTION:  # it doesn't say where to
            raise MediaError(f"its server answered {response.status_code}", reason_of_status(response.status_code))
        return body

    def _read_kept(self, digest: str) -> bytes:
        if self._kept is None or not _DIGEST.fullmatch(digest) or not (self._kept / digest).is_file():
            raise MediaError("no such image is stored", "not_found")
        return (self._kept / digest).read_bytes()

    def _key(self, request: MediaRequest) -> str:
        base = self._label_studio.url if self._label_studio else ""
        url = in_label_studio(request.url, base)
        place = "" if url.startswith(("http://", "https://", "//", KEPT)) else base
        if url.startswith(CLOUD):  # other projects may have a bucket of that name on another server or account
            place += f" {self._project}"
        return sha256(f"{place} {url}".encode(errors="backslashreplace")).hexdigest()

    def _server(self, url: str) -> str:
        """The host or bucket that a URL names; Label Studio's host for its own images, and "" if there is none."""
        if url.startswith(("data:", KEPT)):
            return ""
        base = self._label_studio.url if self._label_studio else ""
        return _host(in_label_studio(url, base)) or _host(base)

    def content(self, digest: str) -> Path | None:
        """The cached or corrected image whose content has this SHA-256; None if there is none."""
        if path := self._cache.content(digest):
            return path
        return self._kept / digest if self._kept and size_of(self._kept / digest) else None

    def drop_damaged(self, digest: str) -> bool:
        """Removes a cached image whose content is no longer what was fetched; returns False if it is intact."""
        return self._cache.drop_damaged(digest)

    def holding(self, paths: Sequence[Path]) -> AbstractContextManager[list[Path | None]]:
        """Paths under which cached files stay until the end, however full the cache gets; None for a missing file."""
        return self._cache.holding(paths)

    def cached(self, request: MediaRequest) -> MediaFile | None:
        """The image if it is in the cache and not too old; makes no request."""
        place = request.url.partition("?")[0]  # a local file is named by the query, and its folder may have that name
        is_upload = "/data/upload/" in place and not place.startswith(CLOUD)
        return self._cache.trusted(self._key(request), float("inf") if is_upload else self._limits.trust_seconds)


def open_media(
    settings: Settings,
    connections: Connections,
    credentials: Credentials | None,
    pool: MediaPool,
    *,
    kept: Path | None = None,
    counts: ImageCounts | None = None,
    missed: list[MediaRequest] | None = None,
    project: str = "",
) -> Media:
    """Media for a project, with the Label Studio that is configured or that `/setup` named; see Media."""
    limits = ImageLimits(
        settings.max_image_bytes,
        settings.image_seconds,
        settings.image_trust_seconds,
        settings.limits,
    )
    session, label_studio = connections.images(), connections.label_studio(credentials)
    return Media(
        settings.cache_dir / "media",
        session,
        label_studio,
        pool,
        limits,
        kept=kept,
        counts=counts,
        missed=missed,
        project=project,
    )


def media_pool() -> MediaPool:
    """A pool for this process; its threads start on demand."""
    return MediaPool(awaited=MediaThreads("media"), background=MediaThreads("media-background"))


def _host(url: str) -> str:
    """The host or bucket of a URL, with its port if it names one; "" for a path."""
    scheme, _, rest = url.partition("//")
    return "" if "/" in scheme else rest.partition("/")[0].partition("?")[0]


def _check_is_image(body: bytes) -> None:
    if not is_image(body):
        raise MediaError(what_came(body), "not_an_image")


def _stored_instead(why: str, stored: tuple[MediaFile, float]) -> MediaFile:
    """The stored image, whose use is logged."""
    file, fetched = stored
    log.info("%s; using the image fetched at %s", why, time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(fetched)))
    return file


def _short(url: str) -> str:
    return "data: URI" if url.startswith("data:") else url_without_secrets(url)
