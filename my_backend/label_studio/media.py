"""Turns a task's image URL into a local file: safely, within limits, and cached."""

import base64
import binascii
import contextlib
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from tempfile import NamedTemporaryFile
from typing import Annotated
from urllib.parse import quote, unquote_to_bytes, urlsplit

import requests
from pydantic import Field, TypeAdapter

from my_backend import files
from my_backend.errors import BackendError, LabelStudioDown, MediaError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.metrics.counters import ImageCounts
from my_backend.projects.corrections import KEPT
from my_backend.projects.registry import Credentials
from my_backend.settings import Settings
from safe_http.content import is_image, what_came
from safe_http.failures import reason_of, reason_of_status, remedy_of
from safe_http.session import (
    Limits,
    SafeSession,
    TooLarge,
    as_browsers_read,
    explain,
    read_body,
    url_without_secrets,
)

log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 20_000_000_000
MAX_URLS = 1_000_000  # whose digests the cache keeps on disk
MAX_KNOWN = 100_000  # of them in memory
SETTLED_SECONDS = 60.0  # after which a new folder has been locked by the process that made it
DECODED_AT_ONCE = 1 << 16  # characters of a data: URI
ERROR_BYTES = 20_000  # read from an error response
PARALLEL = 16  # images with a deadline
# Images without a deadline, of all projects and of one call: others get threads although hosts of some don't answer.
BACKGROUND, BACKGROUND_OF_ONE = 64, 16

LOCAL_FILES = "/data/local-files/"  # the path under which Label Studio serves local files, each named by a query
_CLOUD = ("s3://", "gs://", "azure-blob://", "azure-spi://")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOTED = TypeAdapter(tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], float])  # digest, fetched at
_IS_BASE64 = re.compile(r"; *base64\s*$", re.IGNORECASE | re.ASCII)
_STORAGE_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,80})\s*</Code>")
_EXPIRED = re.compile(rb"<(?:Code|Message)>[^<]*expired", re.IGNORECASE)


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
        if not self.url.startswith(_CLOUD):  # no browser reads these, and Label Studio signs the key as it is
            object.__setattr__(self, "url", as_browsers_read(self.url))


@dataclass(frozen=True)
class MediaFile:
    """An image in the cache and the SHA-256 (hexadecimal) of its content."""

    path: Path
    digest: str


@dataclass(frozen=True)
class MediaPool:
    """The threads that fetch images and the known URLs, for all projects of a process, until `shutdown`.

    Imports and training runs, which have no deadline, use a separate pool, so that an unresponsive storage can't keep
    the requests of other projects waiting for a thread.
    """

    awaited: ThreadPoolExecutor
    background: ThreadPoolExecutor
    known: dict[str, tuple[str, float]] = field(default_factory=dict)  # URL's key → digest, fetched at

    def __enter__(self) -> "MediaPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Shuts down both executors; the arguments are an executor's."""
        for threads in (self.awaited, self.background):
            threads.shutdown(wait=wait, cancel_futures=cancel_futures)


class Media:
    """Fetches the images of one project's tasks.

    Projects and processes share the cache: contents are stored by digest, and each URL has a small file that names
    its digest.
    """

    def __init__(
        self,
        folder: Path,
        session: SafeSession,
        label_studio: LabelStudio | None,
        pool: MediaPool,
        limits: ImageLimits = ImageLimits(),
        kept: Path | None = None,
        counts: ImageCounts | None = None,
        missed: list[MediaRequest] | None = None,
        project: str = "",
    ) -> None:
        """`kept` is a folder of images, named by digest, that tasks refer to as `kept:<digest>`.

        Images that can't be read now, but perhaps later, are added to `missed`. `project` is the project's uid.
        """
        self._contents, self._urls, self._held = folder / "contents", folder / "urls", folder / "held"
        for directory in (self._contents, self._urls):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._session, self._limits = session, limits
        self._label_studio = label_studio
        self._kept = kept
        self._counts = counts or ImageCounts()
        self._missed = missed
        self._project = project
        self._pool, self._known = pool, pool.known

    def fetch_all(
        self, requests: Sequence[MediaRequest], deadline: float = float("inf")
    ) -> list[MediaFile | MediaError]:
        """One result for each request, in order; an error for images not there by `deadline` (monotonic).

        Without a deadline it uses a separate thread pool, so it doesn't delay requests that have one, and only some of
        its threads.
        """
        in_background = deadline == float("inf")
        threads = self._pool.background if in_background else self._pool.awaited
        results: dict[MediaRequest, MediaFile | MediaError] = {}
        futures: dict[MediaRequest, Future[MediaFile]] = {}
        for request in dict.fromkeys(requests):
            if cached := self._looked_up(request):
                results[request] = cached
            else:
                if in_background:
                    _wait_until_fewer(BACKGROUND_OF_ONE, futures.values())
                futures[request] = threads.submit(self._fetch_once, request, deadline)
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        wait_for(futures.values(), timeout=left)
        for request, future in futures.items():
            results[request] = self._outcome(future, request)
        return [results[request] for request in requests]

    def _outcome(self, future: Future[MediaFile], request: MediaRequest) -> MediaFile | MediaError:
        if not future.done():
            future.cancel()
            if stored := self._stored(self._key(request)):
                return stored[0]
            return MediaError(f"{_short(request.url)}: fetching it took too long", "too_late")
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
            return self._store(request, body)
        except (requests.RequestException, BackendError, OSError, ValueError) as error:
            outcome = error.reason if isinstance(error, MediaError) else reason_of(error)
            place = f"task {request.task_id}: " if request.task_id is not None else ""
            said = f"{place}{_short(request.url)}: {explain(error)}"
            if _is_outage(error, outcome) and (stored := self._stored(self._key(request))):
                file, fetched = stored
                when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(fetched))
                log.info("%s; using the image fetched at %s", said, when)
                return file
            if self._missed is not None and _may_pass(request.url, error, outcome):
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
        return self._store(MediaRequest(KEPT + sha256(body).hexdigest()), body)

    def _body(self, url: str, task_id: int | None, deadline: float) -> bytes:
        if url.startswith("data:"):
            return _data_uri(url, self._limits.max_bytes)
        if url.startswith(KEPT):
            return self._read_kept(url.removeprefix(KEPT))
        if deadline <= time.monotonic():
            raise MediaError("the time limit was reached before it could be fetched", "too_late")
        target = self._target(url, task_id)
        # get() sends the token to Label Studio only, whatever the URL
        if self._label_studio is not None:
            response = self._label_studio.get(target, limits=self._limits.http, deadline=deadline)
        else:
            response = self._session.request("GET", target, limits=self._limits.http, deadline=deadline)
        if not response.ok:
            status = response.status_code
            if self._label_studio is not None and self._label_studio.base.contains(response.url):
                response.close()
                raise MediaError(_explain_status(status, url), reason_of_status(status))
            raise MediaError(_explain_storage(response, url, deadline), reason_of_status(status))
        return read_body(response, max_bytes=self._limits.max_bytes, deadline=deadline)

    def _read_kept(self, digest: str) -> bytes:
        if self._kept is None or not _DIGEST.fullmatch(digest) or not (self._kept / digest).is_file():
            raise MediaError("no such image is stored", "not_found")
        return (self._kept / digest).read_bytes()

    def _target(self, url: str, task_id: int | None) -> str:
        """The http(s) URL to request."""
        url = self._in_label_studio(url)
        if url.startswith(("http://", "https://")):
            return url
        if url.startswith("//"):  # uses the scheme of the page that shows it
            scheme = urlsplit(self._label_studio.url).scheme if self._label_studio else "http"
            return f"{scheme}:{url}"
        if self._label_studio is None:
            raise MediaError("it is stored in Label Studio; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
        base = self._label_studio.url
        if url.startswith(_CLOUD):
            if task_id is None:
                raise MediaError("cloud storage links are signed for a task, and the task has no id")
            encoded = base64.urlsafe_b64encode(url.encode()).decode()
            return f"{base}/tasks/{task_id}/presign/?fileuri={encoded}"
        if "://" in url:
            raise MediaError(f"images can't be read from {url.partition('://')[0]}:// URLs")
        # Label Studio under a sub-path already puts that path before /data
        prefix = urlsplit(base).path
        path = url if url.startswith("/") else f"/data/{url}" if url.startswith("upload/") else f"/{url}"
        path = path.removeprefix(prefix) if prefix and path.startswith(prefix + "/") else path
        return base + quote(path, safe="/?&=%+:;,@!$'()*~")

    def _in_label_studio(self, url: str) -> str:
        """The URL, without its host if it is a local file of Label Studio, which only Label Studio can serve.

        When Label Studio syncs a storage, it adds LABEL_STUDIO_HOST, which is for browsers; this backend may need
        another address.
        """
        place, _, query = url.partition("?")
        is_local_file = place.endswith(LOCAL_FILES) and place.startswith(("http://", "https://"))
        return f"{LOCAL_FILES}?{query}" if is_local_file and self._label_studio else url

    def _key(self, request: MediaRequest) -> str:
        base, url = self._label_studio.url if self._label_studio else "", self._in_label_studio(request.url)
        place = "" if url.startswith(("http://", "https://", "//", KEPT)) else base
        if url.startswith(_CLOUD):  # other projects may have a bucket of that name on another server or account
            place += f" {self._project}"
        return sha256(f"{place} {url}".encode(errors="backslashreplace")).hexdigest()

    def content(self, digest: str) -> Path | None:
        """The cached or corrected image whose content has this SHA-256; None if there is none."""
        folders = [self._contents, *([self._kept] if self._kept else [])]
        return next((folder / digest for folder in folders if _size(folder / digest)), None)

    @contextlib.contextmanager
    def holding(self, paths: Sequence[Path]) -> Iterator[list[Path | None]]:
        """Paths under which cached files stay until the end, however full the cache gets; None for a missing file.

        This way a training run of several hours keeps its images. If a process is killed, the next one releases its
        files.
        """
        for left in self._held.glob("*"):
            with contextlib.suppress(OSError, files.InUse):
                if time.time() - left.stat().st_mtime > SETTLED_SECONDS:
                    with files.claimed(left / ".lock"):
                        shutil.rmtree(left, ignore_errors=True)
        folder = self._held / token_hex(8)
        folder.mkdir(parents=True)
        with files.claimed(folder / ".lock"):
            try:
                yield [_second_name(path, folder) for path in paths]
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def cached(self, request: MediaRequest) -> MediaFile | None:
        """The image if it is in the cache and not too old; makes no request."""
        key = self._key(request)
        stored = self._stored(key)
        if stored is None:
            self._known.pop(key, None)
            return None
        file, fetched = stored
        is_upload = "/data/upload/" in request.url and not request.url.startswith(_CLOUD)
        if not is_upload and time.time() - fetched >= self._limits.trust_seconds:
            self._known.pop(key, None)
            return None
        self._known[key] = (file.digest, fetched)
        return file

    def _stored(self, key: str) -> tuple[MediaFile, float] | None:
        """The image in the cache, however old, and when it was fetched (seconds since 1970)."""
        noted = self._known.get(key) or files.read_record(self._urls / key, _NOTED)
        if noted is None or not _size(self._contents / noted[0]):
            return None
        return MediaFile(self._contents / noted[0], noted[0]), noted[1]

    def _store(self, request: MediaRequest, body: bytes) -> MediaFile:
        digest = sha256(body).hexdigest()
        path = self._contents / digest
        if _size(path) != len(body):
            with NamedTemporaryFile(dir=self._contents, prefix=files.PART, delete=False) as part:
                try:
                    part.write(body)
                    part.flush()
                except OSError:  # the disk is full: don't leave a partial file
                    os.unlink(part.name)
                    raise
            os.replace(part.name, path)
        key, known = self._key(request), (digest, time.time())
        files.write_json(self._urls / key, known, mode=0o600, sync="none")
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[key] = known
        self._trim(len(body))
        return MediaFile(path, digest)

    def _trim(self, added: int) -> None:
        """Removes the oldest files if the cache is too large; checks at random, about once per 1% of its size written.

        It is random because many short-lived processes write to the cache, and none of them could count up to 1%.
        """
        if random.random() >= added / (MAX_CACHE_BYTES / 100):  # noqa: S311  no secret
            return
        notes = sorted((stat.st_mtime, path) for path, stat in _stats(self._urls))
        for _, path in notes[: max(0, len(notes) - MAX_URLS)]:
            path.unlink(missing_ok=True)
        stats = sorted((stat.st_mtime, stat.st_size, path) for path, stat in _stats(self._contents))
        surplus = sum(size for _, size, _ in stats) - MAX_CACHE_BYTES
        for _, size, path in stats:
            if surplus <= 0:
                return
            path.unlink(missing_ok=True)
            surplus -= size


def open_media(
    settings: Settings,
    connections: Connections,
    credentials: Credentials | None,
    pool: MediaPool,
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
    return Media(settings.cache_dir / "media", session, label_studio, pool, limits, kept, counts, missed, project)


def media_pool() -> MediaPool:
    """A pool for this process; its threads start on demand."""
    return MediaPool(
        awaited=ThreadPoolExecutor(PARALLEL, thread_name_prefix="media"),
        background=ThreadPoolExecutor(BACKGROUND, thread_name_prefix="media-background"),
    )


def _second_name(path: Path, folder: Path) -> Path | None:
    name = folder / path.name
    try:
        os.link(path, name)
    except FileExistsError:  # the same image again
        pass
    except FileNotFoundError:
        return None
    except OSError:  # no hard links here, or not a file of the cache: it stays where it is
        return path
    return name


def _size(path: Path) -> int:
    """The file's size in bytes; 0 if there is no file, or if a power failure has emptied it."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stats(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            found.append((path, path.stat()))
    return found


def _wait_until_fewer(most: int, futures: Iterable[Future[MediaFile]]) -> None:
    """Waits until fewer than `most` of them aren't done."""
    while len(left := [future for future in futures if not future.done()]) >= most:
        wait_for(left, return_when=FIRST_COMPLETED)


def _is_outage(error: BaseException, reason: str) -> bool:
    """Whether the image's server, or Label Studio, is down or too slow."""
    return reason in ("unreachable", "timeout", "too_late", "server_error") or isinstance(error, LabelStudioDown)


def _may_pass(url: str, error: BaseException, reason: str) -> bool:
    """Whether a later attempt may succeed: after an outage, a disk error, or a change of the storage in Label Studio.

    Someone may add the image's cloud storage there, or correct its credentials.
    """
    if _is_outage(error, reason) or (url.startswith(_CLOUD) and reason in ("refused", "not_found")):
        return True
    return isinstance(error, OSError) and not isinstance(error, requests.RequestException)


def _short(url: str) -> str:
    return "data: URI" if url.startswith("data:") else url_without_secrets(url)


def _data_uri(url: str, max_bytes: int) -> bytes:
    """The content of a data: URI, as browsers read it (Fetch Standard, data: URLs)."""
    header, comma, data = url.partition("#")[0].partition(",")
    if not comma:
        raise MediaError("it has no comma between its header and its data")
    raw = _percent_decoded(data.encode())
    if _IS_BASE64.search(header):
        raw = _base64_decoded(raw, max_bytes)
    if len(raw) > max_bytes:
        raise TooLarge(f"more than {max_bytes:,} bytes")
    return raw


def _percent_decoded(text: bytes) -> bytes:
    """Decodes in pieces, because the library creates an object for each escape."""
    if b"%" not in text:
        return text
    decoded = bytearray()
    start = 0
    while start < len(text):
        end = start + DECODED_AT_ONCE
        if (escape := text.find(b"%", end - 2, end)) >= 0:
            end = escape  # don't cut it in two
        decoded += unquote_to_bytes(text[start:end])
        start = end
    return bytes(decoded)


def _base64_decoded(text: bytes, max_bytes: int) -> bytes:
    """Decodes base64 with or without whitespace and padding (Infra Standard, forgiving-base64 decode)."""
    text = text.translate(None, b"\t\n\f\r ")
    if len(text) // 4 * 3 > max_bytes + 3:
        raise TooLarge(f"more than {max_bytes:,} bytes")
    if len(text) % 4 == 0:
        text = text.removesuffix(b"=").removesuffix(b"=")
    if b"=" in text:
        raise MediaError("its base64 is invalid: unexpected = padding")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise MediaError(f"its base64 is invalid: {explain(error)}") from error


def _check_is_image(body: bytes) -> None:
    if not is_image(body):
        raise MediaError(what_came(body), "not_an_image")


def _explain_status(status: int, url: str) -> str:
    """What this status of Label Studio means for an image."""
    if status == 403 and LOCAL_FILES in url:
        return (
            "Label Studio answered 403: it serves local files only if you start it with "
            "LOCAL_FILES_SERVING_ENABLED=true"
        )
    if status in (401, 403):
        return (
            f"Label Studio answered {status}: it requires a token with access to the project; set LABEL_STUDIO_API_KEY"
        )
    if url.startswith(_CLOUD) and status == 404:
        return (
            "Label Studio answered 404: no storage of the project covers it, or the storage's credentials were "
            "rejected; check the project's Settings → Cloud Storage"
        )
    if url.startswith(_CLOUD):  # Label Studio reads the file itself, because it doesn't sign the storage's links
        return (
            f"Label Studio answered {status}: it couldn't read the file from the storage, perhaps because the file is "
            "gone, the storage is down, or the storage rejected its credentials; see Label Studio's log"
        )
    if status == 404:
        return (
            "Label Studio answered 404: the file is gone or, for local files, no Local Files storage of the project "
            "covers it"
        )
    if status >= 500:
        return f"Label Studio answered {status}, as it does if an uploaded file is gone; see Label Studio's log"
    return f"its server answered {status}"


def _explain_storage(response: requests.Response, url: str, deadline: float) -> str:
    """What another server answered; S3, Google Cloud and Azure give a code in XML, with the secrets next to it."""
    try:
        body = read_body(response, max_bytes=ERROR_BYTES, deadline=deadline)
    except requests.RequestException:
        body = b""
    code = _STORAGE_CODE.search(body)
    status = response.status_code
    said = f"its server answered {status}" + (f" ({code[1].decode()})" if code else "")
    is_expired, is_signed_on_demand = bool(code and _EXPIRED.search(body)), url.startswith(_CLOUD)
    if is_expired and is_signed_on_demand:
        said += (
            " because the link or the storage's session token has expired; check the clock of Label Studio's machine, "
            "and the credentials in the project's Settings → Cloud Storage"
        )
    elif is_expired:
        said += " because its link has expired; reimport the task with a new link, or add the storage to the project"
    elif is_signed_on_demand and status == 404:
        said += "; check that the file is still in the storage"
    elif is_signed_on_demand and status < 500:
        said += "; check the credentials in the project's Settings → Cloud Storage"
    return said
