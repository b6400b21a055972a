import base64
import logging
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from errno import EIO
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from my_backend.errors import MediaError
from my_backend.label_studio import media as media_module
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import PARALLEL, ImageLimits, Media, MediaFile, MediaPool, MediaRequest, media_pool
from my_backend.label_studio.media import open_media as open_media_as_set
from my_backend.projects.corrections import KEPT
from safe_http.session import SafeSession
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import FakeServer, Reply, Seen
from testing.waiting import eventually
from tests.broken_disk import failing
from tests.my_backend.conftest import MakeSettings, Serve

ROOT = Path(__file__).parents[3]
UPLOAD = "/data/upload/7/a.png"


@pytest.fixture
def pool() -> Iterator[MediaPool]:
    with media_pool() as pool:
        yield pool


OpenMedia = Callable[..., Media]


@pytest.fixture
def open_media(tmp_path: Path, pool: MediaPool) -> OpenMedia:
    def open_media(
        server: FakeLabelStudio | None = None,
        *allowed: str,
        token: str | None = None,
        limits: ImageLimits = ImageLimits(),  # noqa: B008  # frozen
    ) -> Media:
        session = SafeSession(allowed)
        label_studio = None
        if server is not None:
            key = server.pat if token is None else token
            label_studio = LabelStudio(server.url, key, SafeSession([server.server.host, *allowed]))
        return Media(tmp_path / "media", session, label_studio, pool, limits)

    return open_media


@pytest.fixture
def start() -> Iterator[Callable[..., FakeServer]]:
    """Starts image servers."""
    with ExitStack() as stack:
        yield lambda answer=lambda seen: Reply(200, PNG): stack.enter_context(FakeServer(answer))


Start = Callable[..., FakeServer]


def content(file: MediaFile | MediaError) -> bytes:
    assert isinstance(file, MediaFile), file
    body = file.path.read_bytes()
    assert file.digest == sha256(body).hexdigest()
    return body


def why_not(media: Media, url: str, task_id: int | None = 3) -> str:
    with pytest.raises(MediaError) as failed:
        media.fetch(MediaRequest(url, task_id))
    return str(failed.value)


def stored(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "media").rglob("*") if path.is_file())


# What a task's URL means


@pytest.mark.parametrize("prefix", ["", "/label-studio"])
@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (UPLOAD, UPLOAD),
        ("upload/7/a.png", UPLOAD),
        ("data/upload/7/a.png", UPLOAD),
        ("/data/local-files/?d=a%20b/c.png", "/data/local-files/?d=a%20b/c.png"),
        ("/data/upload/7/ü b#c.png", "/data/upload/7/%C3%BC%20b%23c.png"),
        ("/data/upload/7/Привет (1), [2].png", f"/data/upload/7/{quote('Привет')}%20(1),%20%5B2%5D.png"),
        ("s3://bucket/a b.png", None),
        ("gs://bucket/ü.png", None),
        ("azure-blob://bucket/a.png", None),
        ("azure-spi://bucket/a.png", None),
    ],
)
def test_url_that_label_studio_keeps_is_asked_there_with_a_token(
    open_media: OpenMedia, prefix: str, url: str, asked: str | None
) -> None:
    asked = asked or f"/tasks/3/presign/?fileuri={base64.urlsafe_b64encode(url.encode()).decode()}"
    with FakeLabelStudio(prefix).running() as server:
        server.files[asked] = PNG

        assert content(open_media(server).fetch(MediaRequest(url, 3))) == PNG
        assert server.server.paths()[-1] == prefix + asked


def test_sub_path_is_not_put_before_a_url_that_has_it(open_media: OpenMedia) -> None:
    with FakeLabelStudio("/label-studio").running() as server:
        server.files[UPLOAD] = PNG

        for url in (f"/label-studio{UPLOAD}", server.url + UPLOAD):
            assert content(open_media(server).fetch(MediaRequest(url))) == PNG


@pytest.mark.parametrize("prefix", ["", "/label-studio"])
def test_local_file_is_read_although_label_studio_calls_itself_by_another_address(
    open_media: OpenMedia, start: Start, prefix: str
) -> None:
    """A storage's synchronization puts LABEL_STUDIO_HOST, which people's browsers use, before its files."""
    asked = "/data/local-files/?d=pets/a%20b%231.png"
    host = start()
    with FakeLabelStudio(prefix).running() as server:
        server.files[asked] = PNG
        media = open_media(server)

        assert content(media.fetch(MediaRequest(f"{host.url}{prefix}{asked}"))) == PNG
        assert server.server.paths()[-1] == prefix + asked
        assert host.seen == []
        assert media.cached(MediaRequest(asked)), "the same file"


def test_presigned_link_is_followed_without_the_token(
    label_studio: FakeLabelStudio, open_media: OpenMedia, start: Start
) -> None:
    storage = start()
    link = f"{storage.url}/a.png?X-Amz-Signature=secret"
    encoded = base64.urlsafe_b64encode(b"s3://bucket/a.png").decode()
    label_studio.files[f"/tasks/3/presign/?fileuri={encoded}"] = Reply(303, b"", {"Location": link})

    assert content(open_media(label_studio, storage.host).fetch(MediaRequest("s3://bucket/a.png", 3))) == PNG
    assert storage.paths() == ["/a.png?X-Amz-Signature=secret"]
    assert "Authorization" not in storage.seen[0].headers


def test_token_goes_to_label_studio_and_not_to_other_ports_of_its_host(
    label_studio: FakeLabelStudio, open_media: OpenMedia, start: Start
) -> None:
    label_studio.files[UPLOAD] = PNG
    other = start()
    media = open_media(label_studio, "127.0.0.1")

    for url in (label_studio.url + UPLOAD, other.url, f"{other.url}\\@{label_studio.server.host}/"):
        media.fetch(MediaRequest(url))

    assert label_studio.server.seen[-1].headers["Authorization"].startswith("Bearer ")
    assert ["Authorization" in seen.headers for seen in other.seen] == [False, False]


@pytest.mark.parametrize(
    "path",
    [
        "/other/a.png",
        "/label-studio-copy/a.png",
        "/label-studio/../other/a.png",
        "/label-studio/%2e%2e/other/a.png",
        "/label-studio/..%2fother/a.png",
        "/label-studio/..%5Cother/a.png",
        "/other/..%2flabel-studio/a.png",
        "/label-studio/data/upload/7/leads-elsewhere.png",
    ],
)
def test_token_is_not_sent_to_another_program_next_to_label_studios_sub_path(open_media: OpenMedia, path: str) -> None:
    with FakeLabelStudio("/label-studio").running() as server:
        root = server.url.removesuffix("/label-studio")
        server.files["/data/upload/7/leads-elsewhere.png"] = Reply(302, b"", {"Location": "/other/a.png"})
        media = open_media(server)

        assert "its server answered 401" in why_not(media, root + path)
        assert "Authorization" not in server.server.seen[-1].headers

        server.files[UPLOAD] = PNG
        media.fetch(MediaRequest(f"{root}/other/../label-studio{UPLOAD}"))
        assert server.server.seen[-1].headers["Authorization"].startswith("Bearer ")


@pytest.mark.parametrize("prefix", ["", "/label-studio"])
@pytest.mark.parametrize(
    "url",
    [
        "/api/projects/7/export?exportType=JSON",
        "api/projects/",
        "{label_studio}/api/projects/",
        "{label_studio}//api/projects/",
        "{label_studio}/data/../api/projects/",
        "{label_studio}/%61pi/projects/",
        "{label_studio}/data/upload/7/leads-to-the-api.png",
        "{stranger}/leads-to-the-api.png",
    ],
)
def test_task_cannot_use_the_token_for_label_studios_api(
    open_media: OpenMedia, start: Start, prefix: str, url: str
) -> None:
    with FakeLabelStudio(prefix).running() as server:
        to_the_api = Reply(302, b"", {"Location": f"{server.url}/api/projects/"})
        server.files["/data/upload/7/leads-to-the-api.png"] = to_the_api
        stranger = start(lambda seen: to_the_api)
        written = url.format(label_studio=server.url, stranger=stranger.url)

        with pytest.raises(MediaError, match="Label Studio's API, which tasks can't use"):
            open_media(server, stranger.host).fetch(MediaRequest(written))

        assert [path for path in server.server.paths() if "projects" in path] == []


def test_url_of_another_server_needs_no_label_studio(open_media: OpenMedia, start: Start) -> None:
    server = start()

    assert content(open_media(None, server.host).fetch(MediaRequest(f"{server.url}/a.png"))) == PNG


BODY = PNG + bytes(range(256)) + b"x"  # its base64 has all characters, and padding
BASE64 = base64.b64encode(BODY).decode()
WRAPPED = "\r\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{BASE64}",
        f"data:image/png;base64,{quote(BASE64)}",
        f"data:image/png;base64,{''.join(f'%{ord(one):02x}' for one in BASE64)}",
        f"data:image/png;base64,{WRAPPED}",
        f"data:image/png;base64,{quote(WRAPPED)}",
        f"data:image/png;base64,{WRAPPED.replace(chr(13), '')}\n",
        f"data:image/png;base64, {' '.join(BASE64)}\t",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"data:image/png;base64,{BASE64.replace('=', '%3D')}",
        f"DATA:image/png;base64,{BASE64}",
        f"data:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;base64 ,{BASE64}",
        f"data:image/png;  base64,{BASE64}",
        f"data:image/png;charset=utf-8;base64,{BASE64}",
        f"data:image/png;name=a b.png;base64,{BASE64}",
        f"data:;base64,{BASE64}",
        f"data:text/plain;base64,{BASE64}",
        f" \n data:image/png;base64,{BASE64}",
        f"da\nta:image/png;ba\rse64,{BASE64}",
        f"data:image/png;base64,{BASE64}#fragment",
        f"data:,{quote(BODY)}",
        f"data:image/png,{quote(BODY)}",
        f"data:image/png;charset=utf-8,{quote(BODY, safe='')}",
        f"data:image/png;charset=utf-8,{re.sub('%..', lambda e: e[0].lower(), quote(BODY))}#fragment",
    ],
)
def test_data_uri_is_the_image(open_media: OpenMedia, url: str) -> None:
    assert content(open_media().fetch(MediaRequest(url))) == BODY


@pytest.mark.parametrize("shift", range(4))
def test_escapes_of_a_long_data_uri_are_not_cut(open_media: OpenMedia, shift: int) -> None:
    body = PNG + b"x" * shift + b"%" * 100_000 + b"%4"

    url = f"data:,{quote(PNG + b'x' * shift)}{'%25' * 100_000}%4"

    assert content(open_media().fetch(MediaRequest(url))) == body


@pytest.mark.parametrize("escape", ["", "%41"])
def test_data_uri_takes_memory_by_its_length_alone(open_media: OpenMedia, escape: str) -> None:
    url = "data:image/png;base64," + (escape or "AAAA") * 1_000_000
    media = open_media(limits=ImageLimits(max_bytes=1000))
    tracemalloc.start()
    try:
        assert "more than 1,000 bytes" in why_not(media, url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 6 * len(url)


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("{url}/a.png", "/a.png"),
        (" {url}/a.png\n", "/a.png"),
        ("{url}/a\n.png", "/a.png"),
        ("HTTP://{host}/a.png", "/a.png"),
        ("Http://{host}/A.png", "/A.png"),
        ("//{host}/a.png", "/a.png"),
        ("\\\\{host}\\a.png", "/a.png"),
        ("http:\\\\{host}\\a.png", "/a.png"),
        ("{url}\\b\\a.png?c=d\\e", "/b/a.png?c=d%5Ce"),
        ("http://user:password@{host}/a.png", "/a.png"),
        ("{url}/a b.png", "/a%20b.png"),
        ("{url}/a%20b%2Fc.png", "/a%20b%2Fc.png"),
        ("{url}/猫.png", "/%E7%8C%AB.png"),
        ("{url}/100%.png", "/100%25.png"),
        ("{url}/a[1].png?b=[2]", "/a%5B1%5D.png?b=%5B2%5D"),
        ("{url}/a.png?X-Amz-Signature=a%2Bb&c=d#e", "/a.png?X-Amz-Signature=a%2Bb&c=d"),
        ("{url}?a.png", "/?a.png"),
        ("{url}/b/../a.png", "/a.png"),
    ],
)
def test_url_is_asked_for_as_browsers_ask_for_it(open_media: OpenMedia, start: Start, written: str, asked: str) -> None:
    server = start()
    media = open_media(None, server.host)
    url = written.format(url=server.url, host=server.host)

    assert content(media.fetch(MediaRequest(url))) == PNG
    assert server.paths() == [asked]
    assert media.cached(MediaRequest(url)) is not None


@pytest.mark.parametrize("written", ["//169.254.169.254/a.png", "\\\\169.254.169.254\\a.png", " HTTP://2852039166/"])
def test_url_as_browsers_read_it_is_guarded_like_any_other(
    label_studio: FakeLabelStudio, open_media: OpenMedia, written: str
) -> None:
    for media in (open_media(None, "169.254.169.254"), open_media(label_studio, "169.254.169.254", "2852039166")):
        assert "metadata address" in why_not(media, written)
    assert label_studio.server.seen == []


def test_blanks_in_the_key_of_a_cloud_link_are_the_keys(label_studio: FakeLabelStudio, open_media: OpenMedia) -> None:
    url = "s3://bucket/A\\b.png "
    label_studio.files[f"/tasks/3/presign/?fileuri={base64.urlsafe_b64encode(url.encode()).decode()}"] = PNG

    assert content(open_media(label_studio).fetch(MediaRequest(url, 3))) == PNG


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (UPLOAD, "set LABEL_STUDIO_URL"),
        ("", "set LABEL_STUDIO_URL"),
        ("file:///etc/hosts", "set LABEL_STUDIO_URL"),
        ("data:image/png;base64", "no comma between its header and its data"),
        ("data:image/png;base64,a", "base64 is invalid"),
        ("data:image/png;base64,%%%", "base64 is invalid"),
        ("data:image/png;base64,AAAA=AAA", "base64 is invalid"),
        ("data:image/png;base64,AAA==", "base64 is invalid"),
        ("data:image/png;base64,AA-_", "base64 is invalid"),
        ("data:image/png;base64,AAAA====", "base64 is invalid"),
        ("data:image/png;ba\u017fe64,AAAA", "isn't a supported image"),
        ("http://[", "not a valid host"),
        ("http://a..b/", "can't resolve"),
        ("http://" + "a" * 70 + ".com/", "can't resolve"),
        ("http://h:99999/", "Failed to parse"),
        ("http://\ud800/", ""),
        ("http://127.0.0.1:1/?sig=secret", "private network"),
    ],
)
def test_url_that_cannot_be_read_says_why_and_of_which_task(open_media: OpenMedia, url: str, said: str) -> None:
    problem = why_not(open_media(), url)

    assert problem.startswith("task 3: ")
    assert said in problem
    assert "secret" not in problem


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/a.png", "javascript://a"])
def test_scheme_that_is_not_read_is_refused(label_studio: FakeLabelStudio, open_media: OpenMedia, url: str) -> None:
    assert "images can't be read from" in why_not(open_media(label_studio), url)
    assert label_studio.server.seen == []


def test_cloud_link_needs_the_tasks_id(label_studio: FakeLabelStudio, open_media: OpenMedia) -> None:
    assert "the task has no id" in why_not(open_media(label_studio), "s3://bucket/a.png", None)


@pytest.mark.parametrize(
    ("token", "path", "said"),
    [
        ("", UPLOAD, "Label Studio answered 401: it requires a token"),
        (None, "/data/local-files/?d=a.png", "no Local Files storage of the project covers it"),
        ("0123456789abcdef0123456789abcdef01234567", UPLOAD, "set LABEL_STUDIO_API_KEY"),
    ],
)
def test_refusal_of_label_studio_names_the_fix(
    label_studio: FakeLabelStudio, open_media: OpenMedia, token: str | None, path: str, said: str
) -> None:
    problem = why_not(open_media(label_studio, token=token), path)

    assert said in problem
    assert not token or token not in problem


def test_refusal_of_another_server_is_not_label_studios(
    label_studio: FakeLabelStudio, open_media: OpenMedia, start: Start
) -> None:
    server = start(lambda seen: Reply(403))

    assert "its server answered 403" in why_not(open_media(label_studio, server.host), server.url)


@pytest.mark.parametrize(("status", "said"), [(404, "no storage of the project covers it"), (424, "the file is gone")])
def test_cloud_image_that_label_studio_cannot_give_says_why(
    label_studio: FakeLabelStudio, open_media: OpenMedia, status: int, said: str
) -> None:
    """Label Studio answers 424 if it should read the file itself and can't, whatever the reason."""
    url = "s3://bucket/a.png"
    encoded = base64.urlsafe_b64encode(url.encode()).decode()
    label_studio.files[f"/tasks/3/presign/?fileuri={encoded}"] = Reply(status)

    problem = why_not(open_media(label_studio), url)

    assert f"Label Studio answered {status}: " in problem
    assert said in problem


EXPIRED = "its link has expired; reimport"
S3 = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message>{}</Error>'
SECRETS = "<AWSAccessKeyId>secret</AWSAccessKeyId><StringToSign>secret</StringToSign><Token-0>secret</Token-0>"


@pytest.mark.parametrize(
    ("status", "body", "said", "expired"),
    [
        (403, S3.format("AccessDenied", "Request has expired", SECRETS), "403 (AccessDenied)", True),
        (400, S3.format("ExpiredToken", "The provided token has expired.", SECRETS), "400 (ExpiredToken)", True),
        (403, S3.format("AccessDenied", "Access Denied", SECRETS), "403 (AccessDenied)", False),
        (403, S3.format("SignatureDoesNotMatch", "secret", SECRETS), "403 (SignatureDoesNotMatch)", False),
        (404, S3.format("NoSuchKey", "The specified key does not exist.", "<Key>a</Key>"), "404 (NoSuchKey)", False),
        (503, S3.format("SlowDown", "Please reduce your request rate.", ""), "503 (SlowDown)", False),
        (
            403,
            "\ufeff" + S3.format("AuthenticationFailed", "Signature not valid", SECRETS),
            "(AuthenticationFailed)",
            False,
        ),
        (403, S3.format("<b>secret</b>", "secret", ""), "answered 403", False),
        (403, S3.format("secret " * 100, "secret", ""), "answered 403", False),
        (403, "<html>secret</html>" * 10_000, "answered 403", False),
        (403, "", "answered 403", False),
    ],
)
@pytest.mark.parametrize("signed_by_label_studio", [False, True])
def test_storages_error_has_its_code_and_is_not_taken_for_label_studios(
    label_studio: FakeLabelStudio,
    open_media: OpenMedia,
    start: Start,
    status: int,
    body: str,
    said: str,
    expired: bool,
    signed_by_label_studio: bool,
) -> None:
    storage = start(lambda seen: Reply(status, body.encode()))
    link = url = f"{storage.url}/a.png?X-Amz-Signature=secret"
    if signed_by_label_studio:
        url = "s3://bucket/a.png"
        encoded = base64.urlsafe_b64encode(url.encode()).decode()
        label_studio.files[f"/tasks/3/presign/?fileuri={encoded}"] = Reply(303, b"", {"Location": link})

    problem = why_not(open_media(label_studio, storage.host), url)

    assert said in problem
    assert "its server answered" in problem
    assert ("has expired" in problem) is expired
    assert (EXPIRED in problem) is (expired and not signed_by_label_studio)
    assert ("Cloud Storage" in problem) is (signed_by_label_studio and status not in (404, 503))
    assert ("still in the storage" in problem) is (signed_by_label_studio and status == 404)
    assert "secret" not in problem


def test_images_that_may_be_there_later_are_told_from_others(
    tmp_path: Path, pool: MediaPool, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {"/down.png": 503, "/gone.png": 404, "/private.png": 403, "/page.png": 200}
    server = start(lambda seen: Reply(status[seen.path], b"<html>"))
    missed: list[MediaRequest] = []
    media = Media(tmp_path / "media", SafeSession([server.host, "127.0.0.1"]), None, pool, kept=tmp_path, missed=missed)
    (tmp_path / ("a" * 64)).write_bytes(PNG)
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (failing(EIO) if path.name == "a" * 64 else read)(path))
    urls = [
        *(server.url + path for path in status),
        "http://127.0.0.1:1/a.png",
        KEPT + "a" * 64,
        KEPT + "b" * 64,
        "ftp:",
    ]

    assert all(isinstance(one, MediaError) for one in media.fetch_all([MediaRequest(url) for url in urls]))

    assert {request.url for request in missed} == {
        f"{server.url}/down.png",
        "http://127.0.0.1:1/a.png",
        KEPT + "a" * 64,
    }


@pytest.mark.parametrize("status", [403, 404])
def test_cloud_image_is_tried_again_since_its_storage_may_be_repaired(
    label_studio: FakeLabelStudio, pool: MediaPool, tmp_path: Path, start: Start, status: int
) -> None:
    """403 if the storage rejects its credentials, 404 from Label Studio if the project has no such storage."""
    storage = start(lambda seen: Reply(403))
    url = "s3://bucket/a.png"
    if status == 403:
        encoded = base64.urlsafe_b64encode(url.encode()).decode()
        link = Reply(303, b"", {"Location": storage.url})
        label_studio.files[f"/tasks/3/presign/?fileuri={encoded}"] = link
    session = SafeSession([storage.host, label_studio.server.host])
    client = LabelStudio(label_studio.url, label_studio.pat, session)
    missed: list[MediaRequest] = []
    media = Media(tmp_path / "media", session, client, pool, missed=missed)

    assert f"answered {status}" in why_not(media, url)

    assert missed == [MediaRequest(url, 3)]


def test_image_is_missed_while_label_studio_gives_no_access_token(pool: MediaPool, tmp_path: Path) -> None:
    missed: list[MediaRequest] = []
    pat = FakeLabelStudio().pat
    session = SafeSession(["127.0.0.1"])
    media = Media(tmp_path / "media", session, LabelStudio("http://127.0.0.1:1", pat, session), pool, missed=missed)

    why_not(media, "/data/upload/1/a.png")

    assert [(request.url, request.task_id) for request in missed] == [("/data/upload/1/a.png", 3)]


def test_secrets_of_a_url_are_not_in_the_error(open_media: OpenMedia, start: Start) -> None:
    server = start(lambda seen: Reply(302, b"", {"Location": "http://127.0.0.1:1/?X-Amz-Signature=secret"}))
    media = open_media(None, "127.0.0.1")
    with_password = server.url.replace("http://", "http://user:secret@")

    for url in (f"{with_password}/a.png?sig=secret#secret", "http://127.0.0.1:1/a.png?sig=secret"):
        assert "secret" not in why_not(media, url)


# What is stored


@pytest.mark.parametrize(
    "body",
    [b"\xff\xd8\xff\xe0", PNG, b"GIF89a", b"RIFF....WEBP", b"BM......", b"II*\0", b"MM\0*",
     b"\0\0\0\x20ftypavif", b"\0\0\0\x18ftypheic"],
    ids=["jpeg", "png", "gif", "webp", "bmp", "tiff", "tiff, big-endian", "avif", "heic"],
)  # fmt: skip
def test_images_are_known_by_their_first_bytes(open_media: OpenMedia, start: Start, body: bytes) -> None:
    server = start(lambda seen: Reply(200, body, {"Content-Type": "text/plain"}))

    assert content(open_media(None, server.host).fetch(MediaRequest(server.url))) == body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>Log in</html>", "the server returned a web page"),
        (b"\n  <HTML>", "the server returned a web page"),
        (b"just text", "it isn't a supported image"),
        (b'{"detail": "not found"}', "it isn't a supported image"),
        (b"%PDF-1.7", "it is a PDF: save"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg:svg/>', "it is an SVG"),
        (
            b'<?xml version="1.0"?><Error><Code>ExpiredToken</Code><Message>The token\nhas expired.</Message></Error>',
            "its storage returned an error instead of an image: ExpiredToken: The token has expired.",
        ),
        (b'<?xml version="1.0"?><feed/>', "the server returned an XML document"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "it is a video"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "it is a camera's RAW file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "it is a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is a JPEG 2000 image"),
    ],
)
def test_what_is_no_image_is_not_stored(
    open_media: OpenMedia, start: Start, tmp_path: Path, body: bytes, said: str
) -> None:
    server = start(lambda seen: Reply(200, body, {"Content-Type": "image/png"}))

    assert said in why_not(open_media(None, server.host), server.url)
    assert stored(tmp_path) == []


def test_image_that_is_too_large_is_not_stored(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start(lambda seen: Reply(200, PNG * 1000))
    media = open_media(None, server.host, limits=ImageLimits(max_bytes=1000))

    assert "more than" in why_not(media, server.url)
    assert "more than" in why_not(media, "data:image/png;base64," + "A" * 2000)
    assert stored(tmp_path) == []


def test_known_image_is_not_requested_again_even_by_another_process(
    label_studio: FakeLabelStudio, open_media: OpenMedia, pool: MediaPool
) -> None:
    label_studio.files[UPLOAD] = PNG
    media = open_media(label_studio)
    first = media.fetch(MediaRequest(UPLOAD, 3))
    asked = len(label_studio.server.seen)

    assert media.fetch(MediaRequest(UPLOAD, 4)) == first
    assert open_media(label_studio).fetch_all([MediaRequest(UPLOAD, 3)]) == [first]
    assert len(label_studio.server.seen) == asked


@pytest.mark.parametrize(("path", "again"), [("/a.png", True), (UPLOAD, False)])
def test_image_is_requested_again_after_its_trust_ends_unless_uploaded(
    open_media: OpenMedia, start: Start, monkeypatch: pytest.MonkeyPatch, path: str, again: bool
) -> None:
    bodies = iter([PNG, PNG + b"changed"])
    server = start(lambda seen: Reply(200, next(bodies)))
    media = open_media(None, server.host, limits=ImageLimits(trust_seconds=60))
    media.fetch(MediaRequest(server.url + path))
    later = time.time() + 61
    monkeypatch.setattr("my_backend.label_studio.media.time.time", lambda: later)

    assert content(media.fetch(MediaRequest(server.url + path))) == (PNG + b"changed" if again else PNG)


def test_cloud_image_is_requested_again_although_its_key_looks_like_an_upload(
    label_studio: FakeLabelStudio, open_media: OpenMedia
) -> None:
    url = "s3://bucket/data/upload/a.png"
    asked = f"/tasks/3/presign/?fileuri={base64.urlsafe_b64encode(url.encode()).decode()}"
    label_studio.files[asked] = PNG
    media = open_media(label_studio, limits=ImageLimits(trust_seconds=0))
    media.fetch(MediaRequest(url, 3))
    label_studio.files[asked] = PNG + b"changed"

    assert content(media.fetch(MediaRequest(url, 3))) == PNG + b"changed"


@pytest.mark.parametrize(("status", "used"), [(503, True), (404, False), (403, False)])
def test_stored_image_is_used_although_its_trust_has_ended_if_its_server_is_down(
    open_media: OpenMedia,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int,
    used: bool,
) -> None:
    """Otherwise a version trained during an outage would know few of the labels."""
    caplog.set_level(logging.INFO)
    replies = iter([Reply(200, PNG), Reply(status), Reply(200, PNG + b"changed")])
    server = start(lambda seen: next(replies))
    media, request = open_media(None, server.host, limits=ImageLimits(trust_seconds=60)), MediaRequest(server.url)
    first = media.fetch(request)
    later = time.time() + 61
    monkeypatch.setattr("my_backend.label_studio.media.time.time", lambda: later)

    (found,) = media.fetch_all([request])

    assert found == first if used else isinstance(found, MediaError)
    assert (f"{server.url}: its server answered {status}; using the image fetched at " in caplog.text) == used
    assert content(media.fetch(request)) == PNG + b"changed", "requested again"


def test_stored_images_are_used_at_the_deadline_although_their_trust_has_ended(
    open_media: OpenMedia, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server doesn't answer: at the deadline, some requests are in progress, and the others wait for a thread."""
    silent = threading.Event()
    server = start(lambda seen: Reply(parts=[b"x"], pause=60) if silent.is_set() else Reply(200, PNG))
    media = open_media(None, server.host, limits=ImageLimits(trust_seconds=60))
    requests = [MediaRequest(f"{server.url}/{n}.png") for n in range(2 * PARALLEL)]
    stored = media.fetch_all(requests)
    later = time.time() + 61
    monkeypatch.setattr("my_backend.label_studio.media.time.time", lambda: later)
    silent.set()

    assert media.fetch_all(requests, time.monotonic() + 0.3) == stored
    assert media.fetch_all(requests, time.monotonic()) == stored


def test_same_image_at_two_urls_is_stored_once(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start()
    media = open_media(None, server.host)

    one, two = media.fetch_all([MediaRequest(f"{server.url}/1"), MediaRequest(f"{server.url}/2")])

    assert one == two
    assert len(list((tmp_path / "media" / "contents").iterdir())) == 1


def test_same_path_in_two_label_studios_is_two_images(open_media: OpenMedia) -> None:
    with FakeLabelStudio().running() as one, FakeLabelStudio().running() as two:
        one.files[UPLOAD], two.files[UPLOAD] = PNG + b"1", PNG + b"2"

        bodies = [content(open_media(server).fetch(MediaRequest(UPLOAD))) for server in (one, two)]

    assert bodies == [PNG + b"1", PNG + b"2"]


@pytest.mark.parametrize("url", ["s3://photos/1.png", "gs://photos/1.png", "azure-blob://photos/1.png"])
def test_two_projects_with_buckets_of_the_same_name_get_their_own_images(
    label_studio: FakeLabelStudio, serve: Serve, url: str
) -> None:
    """Azure's URLs name no account, and buckets of two MinIO servers may have the same name."""
    encoded = base64.urlsafe_b64encode(url.encode()).decode()
    bodies = {1: PNG + b"1", 2: PNG + b"2"}
    label_studio.files |= {f"/tasks/{task}/presign/?fileuri={encoded}": body for task, body in bodies.items()}
    projects = {task: f"{task}.1795181751" for task in bodies}
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        for uid in projects.values():
            client.setup(uid)

        for task, uid in projects.items():
            media = client.backend.open_media(client.backend.projects.get(uid))
            assert content(media.fetch(MediaRequest(url, task))) == bodies[task]
            assert media.cached(MediaRequest(url, 3)), "another task of the project with the same image"


def test_content_that_was_removed_is_fetched_again(open_media: OpenMedia, start: Start) -> None:
    server = start()
    media = open_media(None, server.host)
    file = media.fetch(MediaRequest(server.url))
    file.path.unlink()

    assert content(media.fetch(MediaRequest(server.url))) == PNG


@pytest.mark.parametrize(
    "content_of_note",
    [b"", b"null", b"[1]", b"{", b"\xff\xfe", b"\0\0", b'["abc", "def"]', b'["../../other", 9e9]', b'[["a"], 9e9]'],
)
def test_note_that_is_damaged_is_fetched_again(
    open_media: OpenMedia, pool: MediaPool, start: Start, tmp_path: Path, content_of_note: bytes
) -> None:
    server = start()
    open_media(None, server.host).fetch(MediaRequest(server.url))
    (note,) = (tmp_path / "media" / "urls").iterdir()
    note.write_bytes(content_of_note)
    pool.known.clear()  # as in another process

    assert content(open_media(None, server.host).fetch(MediaRequest(server.url))) == PNG


def test_url_is_known_to_all_media_of_a_process(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start()
    first = open_media(None, server.host).fetch(MediaRequest(server.url))
    shutil.rmtree(tmp_path / "media" / "urls")

    assert open_media(None, server.host).fetch(MediaRequest(server.url)) == first
    assert len(server.seen) == 1


def test_upload_that_a_loss_of_power_has_emptied_is_fetched_again(
    label_studio: FakeLabelStudio, open_media: OpenMedia
) -> None:
    label_studio.files[UPLOAD] = PNG
    file = open_media(label_studio).fetch(MediaRequest(UPLOAD))
    file.path.write_bytes(b"")
    media = open_media(label_studio)

    assert media.content(file.digest) is None
    assert content(media.fetch(MediaRequest(UPLOAD))) == PNG
    assert media.content(file.digest) == file.path


def test_content_truncated_by_a_loss_of_power_is_replaced_when_it_returns(open_media: OpenMedia, start: Start) -> None:
    server = start()
    open_media(None, server.host).fetch(MediaRequest(f"{server.url}/1")).path.write_bytes(PNG[:10])

    assert content(open_media(None, server.host).fetch(MediaRequest(f"{server.url}/2"))) == PNG


def test_oldest_images_go_when_the_cache_is_full(
    open_media: OpenMedia, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "MAX_CACHE_BYTES", 5 * 1000)
    server = start(lambda seen: Reply(200, (PNG + seen.path.encode()).ljust(1000)))
    media = open_media(None, server.host)

    files = []
    for number in range(8):
        file = media.fetch(MediaRequest(f"{server.url}/{number}"))
        os.utime(file.path, (number, number))
        files.append(file)

    left = [file.path.exists() for file in files]
    assert left == [False] * 3 + [True] * 5


def test_cache_keeps_its_size_where_nobody_writes_much_of_it(
    open_media: OpenMedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 900
    limit = 100 * 1000  # so that each image is looked after in nine of ten cases
    monkeypatch.setattr(media_module, "MAX_CACHE_BYTES", limit)

    for number in range(160):  # each request for a single image has a Media of its own, as has each job's process
        open_media().take_in((PNG + b"%d" % number).ljust(size))

    kept = sum(path.stat().st_size for path in (tmp_path / "media" / "contents").iterdir())
    assert limit - size < kept < limit + 20 * size  # twenty in a row are never left out


def test_held_images_stay_when_the_cache_loses_them_until_they_are_let_go(
    open_media: OpenMedia, tmp_path: Path
) -> None:
    media = open_media()
    kept, lost = media.take_in(PNG + b"1"), media.take_in(PNG + b"2")
    lost.path.unlink()

    with media.holding([kept.path, lost.path, kept.path]) as held:
        kept.path.unlink()
        assert [path and path.read_bytes() for path in held] == [PNG + b"1", None, PNG + b"1"]
        assert held[0] is not None
        assert held[0].name == kept.path.name

    assert list((tmp_path / "media" / "held").iterdir()) == []


HOLDER = """
import sys, time
from pathlib import Path
from my_backend.label_studio.media import Media, media_pool
from safe_http.session import SafeSession
media = Media(Path(sys.argv[1]), SafeSession(()), None, media_pool())
with media.holding([Path(sys.argv[2])]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_killed_process_holds_no_images_and_a_living_one_keeps_its_own(
    open_media: OpenMedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "SETTLED_SECONDS", 0.0)
    media = open_media()
    file = media.take_in(PNG)
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "media"), str(file.path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            (held,) = (tmp_path / "media" / "held").iterdir()
            with media.holding([file.path]):
                assert (held / file.digest).read_bytes() == PNG, "the other process lives"
        finally:
            process.kill()

    with media.holding([file.path]) as first, media.holding([file.path]) as second:
        assert not held.exists()
        assert all(path is not None and path.read_bytes() == PNG for path in (*first, *second))


# Many at once, and deadlines


def test_results_keep_the_order_of_requests_with_errors_for_failed_ones(open_media: OpenMedia, start: Start) -> None:
    def answer(seen: Seen) -> Reply:
        return Reply(404) if "missing" in seen.path else Reply(200, PNG + seen.path.encode())

    server = start(answer)
    paths = ["/1", "/missing", "/2", "/1", "/3"]

    found = open_media(None, server.host).fetch_all([MediaRequest(server.url + path) for path in paths])

    assert isinstance(found[1], MediaError)
    assert [content(found[position]) for position in (0, 2, 3, 4)] == [
        PNG + p.encode() for p in ("/1", "/2", "/1", "/3")
    ]
    assert sorted(server.paths()) == ["/1", "/2", "/3", "/missing"]


@pytest.mark.parametrize("url", ["http://[", "http://a..b/", "http://\ud800/", "data:", "\0", "http://h:99999/"])
def test_url_of_no_sense_does_not_hurt_the_others(open_media: OpenMedia, start: Start, url: str) -> None:
    server = start()

    broken, fine = open_media(None, server.host).fetch_all([MediaRequest(url, 1), MediaRequest(server.url, 2)])

    assert isinstance(broken, MediaError)
    assert content(fine) == PNG


def slow(seen: Seen) -> Reply:
    """Sends the first bytes immediately, the rest never."""
    if seen.path == "/headers":
        return Reply(200, PNG, pause=0.5, slow_headers=True)
    if seen.path != "/slow":
        return Reply(200, PNG)
    return Reply(200, parts=[b"x"] * 10_000, pause=0.02)


@pytest.mark.parametrize("path", ["/slow", "/headers"])
def test_at_the_deadline_what_is_there_is_answered(open_media: OpenMedia, start: Start, path: str) -> None:
    server = start(slow)
    begun = time.monotonic()

    found = open_media(None, server.host).fetch_all(
        [MediaRequest(server.url + path, 1), MediaRequest(f"{server.url}/fast", 2)], begun + 3
    )

    assert time.monotonic() - begun < 20, "it waits for none that is slower"
    # On a busy machine, the server may not send the next bytes in time: then the last read times out.
    assert re.search("too long|Read timed out", str(found[0]))
    assert content(found[1]) == PNG


def test_past_the_deadline_only_what_is_known_is_answered(open_media: OpenMedia, start: Start) -> None:
    server = start()
    media = open_media(None, server.host)
    media.fetch(MediaRequest(f"{server.url}/known"))
    asked = len(server.seen)

    known, unknown = media.fetch_all(
        [MediaRequest(f"{server.url}/known"), MediaRequest(f"{server.url}/unknown")], time.monotonic() - 1
    )

    assert content(known) == PNG
    assert isinstance(unknown, MediaError)
    assert len(server.seen) == asked


@pytest.mark.parametrize("path", ["/slow", "/endless"])
def test_one_image_may_take_only_so_long(open_media: OpenMedia, start: Start, path: str) -> None:
    def answer(seen: Seen) -> Reply:
        if path == "/slow":
            return slow(seen)
        server.closing.wait(0.1)
        return Reply(302, b"", {"Location": path})

    server = start(answer)
    begun = time.monotonic()

    assert why_not(open_media(None, server.host, limits=ImageLimits(seconds=0.4)), server.url + path)
    assert time.monotonic() - begun < 60


def test_request_gets_its_images_while_those_of_an_import_hang(open_media: OpenMedia, start: Start) -> None:
    answers = threading.Event()

    def answer(seen: Seen) -> Reply:
        if "silent" in seen.path:
            answers.wait(120)
        return Reply(200, PNG)

    server = start(answer)
    silent = [MediaRequest(f"{server.url}/silent/{number}") for number in range(4 * PARALLEL)]
    with ThreadPoolExecutor(1) as importing:
        try:
            imported = importing.submit(open_media(None, server.host).fetch_all, silent)
            assert eventually(lambda: len(server.seen) == PARALLEL)
            [found] = open_media(None, server.host).fetch_all([MediaRequest(server.url)], time.monotonic() + 60)
            with ThreadPoolExecutor(1) as collecting:  # of another project
                other = collecting.submit(open_media(None, server.host).fetch_all, [MediaRequest(f"{server.url}/b")])
                [also_found] = other.result(60)
        finally:
            answers.set()

    assert [content(one) for one in (found, also_found)] == [PNG, PNG]
    assert [content(one) for one in imported.result()] == [PNG] * len(silent)


def test_cached_images_are_not_readable_by_others(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start()
    open_media(None, server.host).fetch(MediaRequest(f"{server.url}/?token=secret"))

    folders: list[Any] = list((tmp_path / "media").iterdir())
    assert [oct(folder.stat().st_mode & 0o077) for folder in folders] == ["0o0", "0o0"]


def test_limits_are_settings(make_settings: MakeSettings, pool: MediaPool, start: Start) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/redirect":
            return Reply(302, b"", {"Location": "/"})
        if seen.path == "/silent":
            return Reply(200, parts=[b"x"] * 2, pause=60)
        return slow(seen)

    server = start(answer)

    def why_not_with(path: str, **given: object) -> str:
        settings = make_settings(image_hosts=("127.0.0.1",), **given)
        return why_not(open_media_as_set(settings, Connections(settings), None, pool), server.url + path)

    assert "MAX_IMAGE_BYTES" in why_not_with("/", max_image_bytes=len(PNG) - 1)
    assert "more than 0 redirects; raise IMAGE_REDIRECTS" in why_not_with("/redirect", image_redirects=0)
    assert "IMAGE_SECONDS" in why_not_with("/slow", image_seconds=0.2)
    begun = time.monotonic()
    assert "IMAGE_READ_SECONDS" in why_not_with("/silent", image_read_seconds=0.05)
    assert time.monotonic() - begun < 20, "IMAGE_SECONDS, which the error names too, would be 30"
    server.seen.clear()
    doubting = make_settings(image_hosts=("127.0.0.1",), image_trust_seconds=0)
    doubted = open_media_as_set(doubting, Connections(doubting), None, pool)
    for _ in range(2):
        doubted.fetch(MediaRequest(f"{server.url}/"))
    assert server.paths().count("/") == 2  # a busy server may see only now what was given up above
    allowed = make_settings(image_hosts=("127.0.0.1",), max_image_bytes=len(PNG), image_redirects=1)
    open_media_as_set(allowed, Connections(allowed), None, pool).fetch(MediaRequest(f"{server.url}/redirect"))


def test_oldest_urls_go_when_there_are_too_many(
    open_media: OpenMedia, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_module, "MAX_CACHE_BYTES", 100 * len(PNG))  # looks after each image
    monkeypatch.setattr(media_module, "MAX_URLS", 3)
    monkeypatch.setattr(media_module, "MAX_KNOWN", 2)
    server = start()
    media = open_media(None, server.host)

    for number in range(8):
        media.fetch(MediaRequest(f"{server.url}/?signature={number}"))

    assert len(list((tmp_path / "media" / "urls").iterdir())) == 3
    assert len(list((tmp_path / "media" / "contents").iterdir())) == 1
    asked = len(server.seen)
    assert content(media.fetch(MediaRequest(f"{server.url}/?signature=7"))) == PNG
    assert len(server.seen) == asked


def test_on_a_full_disk_nothing_is_left_of_an_image(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start(lambda seen: Reply(200, PNG.ljust(200_000)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        said = why_not(open_media(None, server.host), server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "File too large" in said
    assert stored(tmp_path) == []
