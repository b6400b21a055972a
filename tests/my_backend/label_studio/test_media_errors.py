"""Tests of what the backend says about images that servers refuse, and which of them it tries again."""

import base64
from errno import EIO
from pathlib import Path

import pytest

from my_backend.errors import MediaError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.media import Media, MediaPool, MediaRequest
from my_backend.projects.corrections import KEPT
from safe_http.session import SafeSession
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import Reply
from tests.broken_disk import failing
from tests.my_backend.label_studio.conftest import UPLOAD, OpenMedia, Start, why_not


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
