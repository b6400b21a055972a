"""The images that tasks show are read in time, in order, and each is embedded once."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from image_classifier.embedding.lane import REQUEST
from model import ImageClassifierAPI
from my_backend.errors import MediaError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import Media, MediaRequest, media_pool, open_media
from my_backend.label_studio.media_cache import MediaFile
from my_backend.settings import Settings
from safe_http.session import SafeSession
from task_classifier import shared, task_images
from tests.task_classifier.digit_tasks import CONFIG, Digits, Json, asked, choice, fit, labeled, task


def test_many_tasks_are_read_some_at_a_time_in_order(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = asked(shown[30:41])
    tasks[4] = task(5, b"broken")
    at_once = ImageClassifierAPI(CONFIG, trained).predict(tasks)
    assert at_once[4] == []

    monkeypatch.setattr(task_images, "READ_AT_ONCE", 3)

    assert ImageClassifierAPI(CONFIG, trained).predict(tasks) == at_once


def test_the_next_images_are_fetched_while_these_are_embedded() -> None:
    begun: list[int] = []
    third = threading.Event()

    def fetch(piece: Sequence[Json]) -> list[Any]:
        begun.append(len(piece))
        if len(begun) == 2:
            third.set()
        return list(piece)

    pieces = [[{}], [{}, {}], [{}, {}, {}]]
    fetched = task_images._ahead(fetch, pieces)
    assert next(fetched) == pieces[0]
    assert third.wait(30)  # though nobody has asked for the second
    assert [*fetched] == pieces[1:]
    assert begun == [1, 2, 3]


def test_heic_is_predicted_as_the_same_image_in_another_format(trained: Json, shown: Digits) -> None:
    pytest.importorskip("pillow_heif")
    images = [path for path, _ in shown[30:42]]
    heic = []
    for path in images:
        data = BytesIO()
        Image.open(path).convert("RGB").save(data, "HEIF", quality=95)
        heic.append(data.getvalue())
    found, expected = (
        ImageClassifierAPI(CONFIG, trained).predict([task(number, one) for number, one in enumerate(them)])
        for them in (heic, images)
    )
    assert [choice(one) for one in found] == [choice(one) for one in expected]


@pytest.mark.parametrize(
    ("value", "bring"),
    [
        ("$meta.url", lambda uri: {"meta": {"url": uri}}),
        ("$images[0]", lambda uri: {"images": [uri, "other"]}),
        ("data:image/png;base64,$content", lambda uri: {"content": uri.partition(",")[2]}),
    ],
)
def test_the_image_is_found_by_the_value_of_the_image_tag(
    trained: Json, shown: Digits, value: str, bring: Callable[[str], Json]
) -> None:
    api = ImageClassifierAPI(CONFIG.replace("$image", value), trained)
    plain = asked(shown[30:33])
    brought = [{**one, "data": bring(one["data"]["image"])} for one in plain]
    assert api.predict(brought) == ImageClassifierAPI(CONFIG, trained).predict(plain)
    assert all(api.predict(brought))


def test_task_without_an_image_names_what_was_sought_without_its_secrets(
    trained: Json, caplog: pytest.LogCaptureFixture
) -> None:
    value = "http://images.example/$file?sig=secret"
    why: list[str] = []
    api = ImageClassifierAPI(CONFIG.replace("$image", value), trained)
    api.predict(
        [{"id": 3, "data": {"image": "x"}}], failed=lambda position, said, reason: why.append(f"{reason} {said}")
    )
    assert why == [
        'no_url task 3: its data has no image URL for value="http://images.example/$file?…" of the Image tag'
    ]
    assert "secret" not in caplog.text


def test_the_same_image_in_many_tasks_is_predicted_for_each(trained: Json, shown: Digits) -> None:
    results = ImageClassifierAPI(CONFIG, trained).predict([asked(shown[n : n + 1])[0] for n in (30, 31, 30, 30, 31)])
    assert results[0] == results[2] == results[3] != results[1] == results[4]


def test_image_that_does_not_come_in_time_is_empty_and_the_others_are_not(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with media_pool() as pool, socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("IMAGE_HOSTS", host)
        settings = Settings()
        api = ImageClassifierAPI(CONFIG, trained, media=open_media(settings, Connections(settings), None, pool))
        neighbour = asked(shown[30:31])
        api.predict(neighbour)  # what is known needs no time
        tasks = [{"id": 1, "data": {"image": f"http://{host}/late.png"}}, *neighbour]
        results = api.predict(tasks, deadline=time.monotonic() + 1)
        silent.close()
    assert results[0] == []
    assert choice(results[1]) in "012"


@pytest.mark.parametrize(("times", "reasons"), [(1, []), (2, ["unreadable"])])
def test_image_that_leaves_the_cache_before_it_is_read_is_fetched_again(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch, times: int, reasons: list[str]
) -> None:
    left = iter(range(times))

    def fetched_and_trimmed(*args: Any) -> list[MediaFile | MediaError]:
        found = fetch_all(*args)
        if next(left, None) is not None:
            cast(MediaFile, found[-1]).path.unlink()
        return found

    fetch_all = Media.fetch_all
    monkeypatch.setattr(Media, "fetch_all", fetched_and_trimmed)
    start, why = 50 + 2 * times, list[str]()  # images that no other test has put into the cache of embeddings
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[start : start + 2])
    results = api.predict(tasks, failed=lambda position, said, reason: why.append(reason))
    assert [bool(result) for result in results] == [True, not reasons]
    assert why == reasons


@pytest.mark.parametrize("left", [100, 0])
def test_cached_image_that_a_loss_of_power_has_damaged_is_fetched_again(
    trained: Json, shown: Digits, tmp_path: Path, left: int
) -> None:
    """`left` bytes are on the disk, and then zeros."""
    media = Media(tmp_path / "media", SafeSession(()), None, media_pool())
    api, (asking,) = ImageClassifierAPI(CONFIG, trained, media=media), asked(shown[54:55])
    cached = media.fetch(MediaRequest(asking["data"]["image"]))
    body = cached.path.read_bytes()
    cached.path.write_bytes(body[:left].ljust(100, b"\0"))

    assert [bool(result) for result in api.predict([asking, asking])] == [True, True]
    assert cached.path.read_bytes() == body


def test_where_the_network_is_busy_the_answer_comes_in_time(trained: Json, shown: Digits) -> None:
    api = ImageClassifierAPI(CONFIG, trained)
    known, new = asked(shown[30:31]), asked(shown[31:32])
    api.predict(known)
    busy, lane = threading.Event(), shared.networks().lane
    try:
        for _ in range(lane._decoders[REQUEST]._max_workers):
            lane._decoders[REQUEST].submit(busy.wait)
        first, second = api.predict(known + new, deadline=time.monotonic() + 1)
    finally:
        busy.set()
    assert choice(first) in "012"
    assert second == []


def test_an_image_larger_than_the_setting_says_is_not_decoded(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared.networks().close()  # which read the settings, if this test has just trained
    for once in (shared.settings, shared._make_networks):
        once.cache_clear()
    monkeypatch.setenv("MAX_IMAGE_PIXELS", str(64 * 64 - 1))
    assert ImageClassifierAPI(CONFIG, trained).predict(asked(shown[40:41])) == [[]]
    assert "64×64 is more than 4,095 pixels: scale it down or raise MAX_IMAGE_PIXELS" in caplog.text


def test_first_requests_that_come_together_are_all_answered(trained: Json, shown: Digits) -> None:
    shared.networks().close()
    shared._make_networks.cache_clear()
    together = threading.Barrier(8)

    def predict(number: int) -> Any:
        together.wait(30)
        return api.predict(asked(shown[30 + number : 32 + number]))

    api = ImageClassifierAPI(CONFIG, trained)
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(predict, range(8)))
    everything = api.predict(asked(shown[30:39]))
    assert answers == [everything[number : number + 2] for number in range(8)]


def test_what_was_prepared_is_not_embedded_again(shown: Digits, tmp_path: Path) -> None:
    tasks = labeled(shown[:9])
    ImageClassifierAPI(CONFIG).prepare([*tasks, {"data": {}}, task(99, b"no image")])
    assert len(shared.networks().lane._cache) == 9
    output = fit(tasks, tmp_path)
    ImageClassifierAPI(CONFIG, output).predict(tasks)
    assert len(shared.networks().lane._cache) == 9 + 9, "embeddings and thumbnails, by which near-duplicates are found"
    ImageClassifierAPI("").prepare(tasks)  # there is nothing to prepare for


def test_embeddings_that_one_host_has_shared_are_found_by_another(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "embeddings"
    one = ImageClassifierAPI(CONFIG, embeddings=folder)
    written = folder / one.embedding_space() / ".part"
    written.parent.mkdir(parents=True)
    pages = [asked(shown[:5]), [*asked(shown[5:9]), task(99, b"no image"), {"id": 100, "data": {}}]]
    assert one.embed(pages, written, lambda: None) == 9
    written.rename(written.with_name("0-1999-9-11"))
    shared.networks().close()
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "another host"))
    for once in (shared.settings, shared._make_networks):
        once.cache_clear()

    other = ImageClassifierAPI(CONFIG, embeddings=folder)
    other.prepare(asked(shown[:10]))

    assert other.cache_lookups() == {"hit": 9, "miss": 1}
    assert len(shared.networks().lane._cache) == 1


def test_embedding_images_can_be_stopped_and_then_writes_no_file(shown: Digits, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageClassifierAPI(CONFIG).embed([asked(shown[:3])], tmp_path / "file", stop)
    assert list(tmp_path.glob("file")) == []
