import base64
import logging
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from my_backend.errors import MediaError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import ImageLimits, MediaPool, MediaRequest
from my_backend.label_studio.media import open_media as open_media_as_set
from my_backend.label_studio.media_threads import PARALLEL, THREADS
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import Reply, Seen
from testing.waiting import eventually
from tests.my_backend.conftest import MakeSettings, Serve
from tests.my_backend.label_studio.conftest import UPLOAD, OpenMedia, Start, content, stored, why_not

# Tokens, and secrets of URLs


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
    monkeypatch.setattr("my_backend.label_studio.media_cache.time.time", lambda: later)

    assert content(media.fetch(MediaRequest(server.url + path))) == (PNG + b"changed" if again else PNG)


def test_local_file_is_requested_again_although_its_folder_looks_like_that_of_uploads(
    label_studio: FakeLabelStudio, open_media: OpenMedia
) -> None:
    url = "/data/local-files/?d=photos/data/upload/a.png"
    label_studio.files[url] = PNG
    media = open_media(label_studio, limits=ImageLimits(trust_seconds=0))
    media.fetch(MediaRequest(url, 3))
    label_studio.files[url] = PNG + b"changed"

    assert content(media.fetch(MediaRequest(url, 3))) == PNG + b"changed"


@pytest.mark.parametrize(("path", "again"), [("/a.png", True), (UPLOAD, False)])
def test_image_that_was_fetched_while_the_clock_was_ahead_is_requested_again_unless_uploaded(
    open_media: OpenMedia, start: Start, monkeypatch: pytest.MonkeyPatch, path: str, again: bool
) -> None:
    bodies = iter([PNG, PNG + b"changed"])
    server = start(lambda seen: Reply(200, next(bodies)))
    media, request = open_media(None, server.host), MediaRequest(server.url + path)
    with monkeypatch.context() as ahead:
        next_year = time.time() + 365 * 86_400
        ahead.setattr("my_backend.label_studio.media_cache.time.time", lambda: next_year)
        media.fetch(request)

    assert content(media.fetch(request)) == (PNG + b"changed" if again else PNG)


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
    monkeypatch.setattr("my_backend.label_studio.media_cache.time.time", lambda: later)

    (found,) = media.fetch_all([request])

    assert found == first if used else isinstance(found, MediaError)
    assert (f"{server.url}: its server answered {status}; using the image fetched at " in caplog.text) == used
    assert content(media.fetch(request)) == PNG + b"changed", "requested again"


def test_stored_images_are_used_at_the_deadline_although_their_trust_has_ended(
    open_media: OpenMedia, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server doesn't answer: at the deadline, some requests are in progress, and the others haven't begun."""
    silent = threading.Event()
    server = start(lambda seen: Reply(parts=[b"x"], pause=60) if silent.is_set() else Reply(200, PNG))
    media = open_media(None, server.host, limits=ImageLimits(trust_seconds=60))
    requests = [MediaRequest(f"{server.url}/{n}.png") for n in range(2 * PARALLEL)]
    stored = media.fetch_all(requests)
    later = time.time() + 61
    monkeypatch.setattr("my_backend.label_studio.media_cache.time.time", lambda: later)
    silent.set()
    caplog.set_level(logging.INFO)

    assert media.fetch_all(requests, time.monotonic() + 0.3) == stored
    assert media.fetch_all(requests, time.monotonic()) == stored
    assert "fetching it took too long; using the image fetched at " in caplog.text


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


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "its server answered 301"),
        # S3's, if the bucket is in another region
        (b"<Error><Code>PermanentRedirect</Code><Message>Use another endpoint</Message></Error>", "another endpoint"),
    ],
)
def test_redirect_that_does_not_say_where_to_is_named(
    open_media: OpenMedia, start: Start, body: bytes, said: str
) -> None:
    server = start(lambda seen: Reply(301, body))

    assert said in why_not(open_media(None, "127.0.0.1"), f"{server.url}/1.png")


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


def hanging_if_silent(answers: threading.Event) -> Callable[[Seen], Reply]:
    """Images below `/silent` wait for the event, others don't."""

    def answer(seen: Seen) -> Reply:
        if "silent" in seen.path:
            answers.wait(120)
        return Reply(200, PNG)

    return answer


def test_request_gets_its_images_while_those_of_an_import_hang(open_media: OpenMedia, start: Start) -> None:
    answers = threading.Event()
    server = start(hanging_if_silent(answers))
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


def test_request_gets_its_images_while_those_of_another_request_hang(open_media: OpenMedia, start: Start) -> None:
    answers = threading.Event()
    server = start(hanging_if_silent(answers))
    silent = [MediaRequest(f"{server.url}/silent/{number}") for number in range(4 * PARALLEL)]
    with ThreadPoolExecutor(1) as predicting:
        try:
            media, other = open_media(None, server.host), open_media(None, server.host)
            hanging = predicting.submit(media.fetch_all, silent, time.monotonic() + 20)
            assert eventually(lambda: len(server.seen) == PARALLEL)
            [found] = other.fetch_all([MediaRequest(server.url)], time.monotonic() + 10)
        finally:
            answers.set()

    assert content(found) == PNG
    assert len(hanging.result()) == len(silent)


@pytest.mark.parametrize(("servers", "projects"), [(1, 12), (12, 1)], ids=["of a server", "of a project"])
def test_request_gets_its_images_while_those_of_many_requests_hang(
    open_media: OpenMedia, start: Start, servers: int, projects: int
) -> None:
    """Neither one server, whoever requests its images, nor one project, wherever its images are, uses all threads."""
    answers = threading.Event()
    silent, other = [start(hanging_if_silent(answers)) for _ in range(servers)], start()
    with ThreadPoolExecutor(12) as predicting:
        hanging = []
        try:
            for call in range(12):
                server = silent[call % servers]
                media = open_media(None, server.host, project=f"{call % projects}")
                urls = [MediaRequest(f"{server.url}/silent/{call}/{number}") for number in range(PARALLEL)]
                hanging.append(predicting.submit(media.fetch_all, urls, time.monotonic() + 60))
            assert eventually(lambda: sum(len(server.seen) for server in silent) == THREADS // 2)
            media = open_media(None, other.host, project="other")
            found = media.fetch_all(
                [MediaRequest(f"{other.url}/{number}") for number in range(20)], time.monotonic() + 30
            )
        finally:
            answers.set()

    assert [content(one) for one in found] == [PNG] * 20
    assert [content(one) for call in hanging for one in call.result()] == [PNG] * 12 * PARALLEL


def test_images_of_a_server_share_its_threads(label_studio: FakeLabelStudio, open_media: OpenMedia) -> None:
    media, own = open_media(label_studio), label_studio.server.host
    in_label_studio = [UPLOAD, "upload/7/a.png", label_studio.url + UPLOAD, "http://ls/data/local-files/?d=a.png"]

    assert [media._server(url) for url in in_label_studio] == [own] * 4
    assert [media._server(url) for url in ("https://a.example:8?b", "//a.example:8/c")] == ["a.example:8"] * 2
    assert media._server("s3://bucket/http://a/b.png") == "bucket"
    assert [media._server(url) for url in ("data:image/png,//a/", "kept:0")] == ["", ""], "they need no server"


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
