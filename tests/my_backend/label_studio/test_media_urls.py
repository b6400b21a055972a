"""Tests of which http(s) URL is requested for a task's URL."""

import base64
from urllib.parse import quote

import pytest

from my_backend.label_studio.media import MediaRequest
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from tests.my_backend.label_studio.conftest import UPLOAD, OpenMedia, Start, content, why_not


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


def test_url_of_another_server_needs_no_label_studio(open_media: OpenMedia, start: Start) -> None:
    server = start()

    assert content(open_media(None, server.host).fetch(MediaRequest(f"{server.url}/a.png"))) == PNG


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


@pytest.mark.parametrize("url", ["file:///etc/hosts", "ftp://127.0.0.1/a.png", "javascript://a"])
def test_scheme_that_is_not_read_is_refused(label_studio: FakeLabelStudio, open_media: OpenMedia, url: str) -> None:
    assert "images can't be read from" in why_not(open_media(label_studio), url)
    assert label_studio.server.seen == []


def test_cloud_link_needs_the_tasks_id(label_studio: FakeLabelStudio, open_media: OpenMedia) -> None:
    assert "the task has no id" in why_not(open_media(label_studio), "s3://bucket/a.png", None)
