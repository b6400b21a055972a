"""Tests of the cache of images on disk: what it keeps, removes and holds."""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path
from typing import Any

import pytest

from my_backend.files import PART
from my_backend.label_studio import media_cache
from my_backend.label_studio.media import MediaPool, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import Reply
from tests.broken_disk import broken_disk, disk_error, failing
from tests.my_backend.label_studio.conftest import UPLOAD, OpenMedia, Start, content, stored, why_not

ROOT = Path(__file__).parents[3]


def test_same_image_at_two_urls_is_stored_once(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start()
    media = open_media(None, server.host)

    one, two = media.fetch_all([MediaRequest(f"{server.url}/1"), MediaRequest(f"{server.url}/2")])

    assert one == two
    assert len(list((tmp_path / "media" / "contents").iterdir())) == 1


def test_content_that_was_removed_is_fetched_again(open_media: OpenMedia, start: Start) -> None:
    server = start()
    media = open_media(None, server.host)
    file = media.fetch(MediaRequest(server.url))
    file.path.unlink()

    assert content(media.fetch(MediaRequest(server.url))) == PNG


def test_cache_that_is_removed_while_it_is_used_is_made_again(
    open_media: OpenMedia, start: Start, tmp_path: Path
) -> None:
    server = start()
    media = open_media(None, server.host)
    media.fetch(MediaRequest(server.url))
    shutil.rmtree(tmp_path / "media")

    file = media.fetch(MediaRequest(server.url))
    assert content(file) == PNG
    with media.holding([file.path]) as held:
        assert held != [None]


def test_cached_image_that_the_disk_cannot_find_costs_no_other_image(
    open_media: OpenMedia, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(lambda seen: Reply(200, PNG + seen.path.encode()))
    media = open_media(None, server.host)
    requests = [MediaRequest(f"{server.url}/{number}") for number in range(2)]
    bad, good = media.fetch_all(requests)
    assert isinstance(bad, MediaFile)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **how: (failing(EIO) if path == bad.path else stat)(path, **how))

    found = media.fetch_all(requests)

    assert found[1] == good


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


@pytest.mark.parametrize("time", [-9e99, 9e99])
def test_image_that_was_fetched_at_an_impossible_time_is_fetched_again(
    open_media: OpenMedia, pool: MediaPool, start: Start, tmp_path: Path, time: float
) -> None:
    server = start()
    file = open_media(None, server.host).fetch(MediaRequest(server.url))
    (note,) = (tmp_path / "media" / "urls").iterdir()
    note.write_text(json.dumps([file.digest, time]))
    pool.known.clear()

    assert open_media(None, server.host).fetch(MediaRequest(server.url)) == file
    assert len(server.seen) == 2


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


def fetch_in_turn(open_media: OpenMedia, start: Start, count: int) -> list[MediaFile]:
    """So many images of 1,000 bytes, oldest first."""
    server = start(lambda seen: Reply(200, (PNG + seen.path.encode()).ljust(1000)))
    media = open_media(None, server.host)
    files = []
    for number in range(count):
        file = media.fetch(MediaRequest(f"{server.url}/{number}"))
        os.utime(file.path, (number, number))
        files.append(file)
    return files


def test_oldest_images_go_when_the_cache_is_full(
    open_media: OpenMedia, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_cache, "MAX_CACHE_BYTES", 5 * 1000)

    files = fetch_in_turn(open_media, start, 8)

    left = [file.path.exists() for file in files]
    assert left == [False] * 3 + [True] * 5


def test_cache_keeps_its_size_where_nobody_writes_much_of_it(
    open_media: OpenMedia, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 900
    limit = 100 * 1000  # so that each image is looked after in nine of ten cases
    monkeypatch.setattr(media_cache, "MAX_CACHE_BYTES", limit)

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


SmallDisk = Callable[..., None]


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallDisk:
    def make_small(images: int, number: int = ENOSPC, when_full: Callable[[], object] = lambda: None) -> None:
        """From now on, only so many images fit on the disk."""
        new_file, allocating, media = media_cache.NamedTemporaryFile, threading.Lock(), tmp_path / "media"

        def new_file_if_it_fits(**how: Any) -> Any:
            with allocating:
                found = [*media.glob("contents/*"), *media.glob("held/*/[!.]*")]
                if len({path.stat().st_ino for path in found}) < images:
                    return new_file(**how)
            when_full()
            raise disk_error(number)

        monkeypatch.setattr(media_cache, "NamedTemporaryFile", new_file_if_it_fits)
        monkeypatch.setattr(media_cache, "MAX_CACHE_BYTES", 1_000_000)

    return make_small


@pytest.mark.parametrize("number", [ENOSPC, EDQUOT])
def test_on_a_full_disk_new_images_take_the_place_of_the_oldest(
    open_media: OpenMedia, start: Start, tmp_path: Path, small_disk: SmallDisk, number: int
) -> None:
    """Otherwise, new images would get no predictions until someone frees space."""
    small_disk(3, number)

    files = fetch_in_turn(open_media, start, 5)

    names = [path.name for path in (tmp_path / "media" / "contents").iterdir()]
    assert sorted(names) == sorted(file.digest for file in files[-3:])


def test_on_a_full_disk_images_that_come_at_the_same_time_do_not_take_the_place_of_each_other(
    open_media: OpenMedia, start: Start, small_disk: SmallDisk
) -> None:
    fetch_in_turn(open_media, start, 10)
    waits = iter([threading.Barrier(8, timeout=30).wait] * 8)  # until the disk is full for each of them
    small_disk(10, when_full=lambda: next(waits, int)())

    with ThreadPoolExecutor(8) as threads:
        files = list(threads.map(open_media().take_in, [(PNG + b"%d" % number).ljust(1000) for number in range(8)]))

    assert all(file.path.exists() for file in files)


def test_on_a_full_disk_no_image_goes_that_is_held_or_being_written(
    open_media: OpenMedia, start: Start, tmp_path: Path, small_disk: SmallDisk
) -> None:
    held, old, new = fetch_in_turn(open_media, start, 3)
    part = tmp_path / "media" / "contents" / f"{PART}x"
    part.write_bytes(b"x" * 1000)
    os.utime(part, (0, 0))
    small_disk(4)
    media = open_media()

    with media.holding([held.path]):
        media.take_in((PNG + b"2").ljust(1000))

    assert [path.exists() for path in (held.path, part, old.path, new.path)] == [True, True, False, True]


def test_images_can_be_held_on_a_full_disk(open_media: OpenMedia, tmp_path: Path) -> None:
    media = open_media()
    kept, lost = media.take_in(PNG + b"1"), media.take_in(PNG + b"2")
    lost.path.unlink()

    with broken_disk(), media.holding([kept.path, lost.path]) as held:
        assert held == [kept.path, None]

    assert kept.path.exists()


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
    monkeypatch.setattr(media_cache, "SETTLED_SECONDS", 0.0)
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


def test_cached_images_are_not_readable_by_others(open_media: OpenMedia, start: Start, tmp_path: Path) -> None:
    server = start()
    open_media(None, server.host).fetch(MediaRequest(f"{server.url}/?token=secret"))

    folders: list[Any] = list((tmp_path / "media").iterdir())
    assert [oct(folder.stat().st_mode & 0o077) for folder in folders] == ["0o0", "0o0"]


def test_oldest_urls_go_when_there_are_too_many(
    open_media: OpenMedia, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_cache, "MAX_CACHE_BYTES", 100 * len(PNG))  # looks after each image
    monkeypatch.setattr(media_cache, "MAX_URLS", 3)
    monkeypatch.setattr(media_cache, "MAX_KNOWN", 2)
    server = start()
    media = open_media(None, server.host)

    for number in range(8):
        media.fetch(MediaRequest(f"{server.url}/?signature={number}"))

    assert len(list((tmp_path / "media" / "urls").iterdir())) == 3
    assert len(list((tmp_path / "media" / "contents").iterdir())) == 1
    asked = len(server.seen)
    assert content(media.fetch(MediaRequest(f"{server.url}/?signature=7"))) == PNG
    assert len(server.seen) == asked


def test_only_so_many_urls_are_in_memory_although_all_of_them_are_cached(
    open_media: OpenMedia, start: Start, pool: MediaPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()
    requests = [MediaRequest(f"{server.url}/{number}") for number in range(8)]
    open_media(None, server.host).fetch_all(requests)
    pool.known.clear()  # as in another process, which reads what this one has fetched
    monkeypatch.setattr(media_cache, "MAX_KNOWN", 3)

    open_media(None, server.host).fetch_all(requests)

    assert len(server.seen) == 8
    assert len(pool.known) <= 3


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
