"""`collect FILE.csv DIR`: images of a list of URLs from a real server, in a folder for each class."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from image_classifier.cli import collect as collect_module
from image_classifier.cli.collect import CollectSettings
from image_classifier.cli.url_list import Line
from safe_http import download
from safe_http.download import Downloader
from safe_http.settings import FetchSettings
from testing.http_server import FakeServer, Reply, Seen
from tests.broken_disk import disk_error
from tests.image_classifier.cli.command import Command

ROOT = Path(__file__).resolve().parents[3]


def image(seed: int, kind: str = "PNG", side: int = 32) -> bytes:
    """Noise, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


class Images:
    """A server of images at /<number>.png, and of other things."""

    def __init__(self) -> None:
        self.others: dict[str, Reply] = {}
        self.before: Callable[[], object] = lambda: None
        self.server = FakeServer(self._answer)

    def _answer(self, seen: Seen) -> Reply:
        self.before()
        path = seen.path.partition("?")[0]
        if path in self.others:
            return self.others[path]
        number = path.strip("/").removesuffix(".png")
        return Reply(200, image(int(number))) if number.isdecimal() else Reply(404)

    def listed(self, *lines: tuple[str, str]) -> Path:
        """A file with these paths and classes, in the folder where the command runs."""
        file = Path("list.csv")
        with file.open("w", newline="", encoding="utf-8") as opened:
            csv.writer(opened).writerows([("url", "label"), *((self.server.url + path, name) for path, name in lines)])
        return file

    def asked(self) -> list[str]:
        """The paths that were asked for since the last call."""
        paths = sorted(self.server.paths())
        self.server.seen.clear()
        return paths


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Iterator[Images]:
    monkeypatch.setenv("IMAGE_HOSTS", "127.0.0.1")
    for name in ("IMAGE_SECONDS", "IMAGE_READ_SECONDS", "IMAGE_CONNECT_SECONDS"):
        monkeypatch.setenv(name, "120")  # more than a busy machine needs
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.0)
    images = Images()
    with images.server:
        yield images


def files(folder: str = "photos") -> dict[str, list[bytes]]:
    """The content of the files in the folder of each class."""
    return {
        place.name: sorted(file.read_bytes() for file in place.iterdir())
        for place in sorted(Path(folder).iterdir())
        if place.is_dir() and not place.name.startswith(".")
    }


def report() -> dict[int, dict[str, str]]:
    with Path("photos/collect.csv").open(newline="", encoding="utf-8") as file:
        return {int(row["line"]): row for row in csv.DictReader(file)}


def content(*seeds: int) -> list[bytes]:
    return sorted(map(image, seeds))


def test_images_are_put_into_the_folder_of_their_class(images: Images, run: Command) -> None:
    images.others["/j.jpg"] = Reply(200, image(9, "JPEG"))
    images.others["/moved.png"] = Reply(302, b"", {"Location": "/3.png"})

    said = run(
        "collect",
        images.listed(("/1.png", "cat"), ("/2.png", "Käfer"), ("/j.jpg", "cat"), ("/moved.png", "cat")),
        "photos",
    )

    assert (said.status, said.out) == (0, "Käfer\t1\ncat\t3\n")
    assert said.err.splitlines()[-1] == "Next: image-classifier train photos"
    assert files() == {"Käfer": [image(2)], "cat": sorted([image(1), image(9, "JPEG"), image(3)])}
    assert sorted(path.suffix for path in Path("photos/cat").iterdir()) == [".jpg", ".png", ".png"]
    assert all((Path("photos") / row["file"]).is_file() for row in report().values())
    checked = run("prepare", "photos")
    assert (checked.status, checked.out) == (0, "Käfer\t1\ncat\t3\n")


def test_each_failed_line_is_named_with_its_reason(
    images: Images, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.others = {
        "/page.png": Reply(200, b"<!doctype html><p>Log in"),
        "/broken.png": Reply(200, image(1)[:200]),
        "/small.png": Reply(200, image(1, side=8)),
        "/large.png": Reply(200, image(1, side=100)),
        "/busy.png": Reply(429),
        "/inside.png": Reply(302, b"", {"Location": "http://localhost:1/admin"}),
        "/cloud.png": Reply(302, b"", {"Location": "http://169.254.169.254/latest"}),
    }
    monkeypatch.setenv("MAX_IMAGE_BYTES", "20000")
    names = ["gone", "page", "broken", "small", "large", "busy", "inside", "cloud"]
    lines = [(f"/{name}.png", "cat") for name in names]

    said = run("collect", images.listed(("/1.png", "cat"), ("/2.png", "dog"), *lines, ("/3.png", "a/b")), "photos")

    assert said.status == 0
    problems = {number: row["problem"] for number, row in report().items()}
    expected = {
        2: "",
        3: "",
        4: "its server answered 404",
        5: "web page instead of an image",
        6: "truncated",
        7: "too small: 8×8",
        8: "raise MAX_IMAGE_BYTES",
        9: "its server answered 429",
        10: "localhost is on a private network",
        11: "is a cloud metadata address",
        12: "the class a/b can't be a folder because it contains /",
    }
    assert problems.keys() == expected.keys()
    assert {number: problems[number] for number, text in expected.items() if text not in problems[number]} == {}
    assert [line for line in said.err.splitlines() if line.startswith("line 4: ")] == [
        f"line 4: {images.server.url}/gone.png: its server answered 404"
    ]
    assert (
        "9 of 11 lines have no image: 1 without a usable URL or class, 1 not found, "
        "2 at an address that isn't allowed, 1 rate-limited by the server, 1 too large, 1 not an image, "
        "2 not readable; photos/collect.csv says why"
    ) in said.err
    assert files() == {"cat": [image(1)], "dog": [image(2)]}


def test_what_is_there_is_not_fetched_again(images: Images, run: Command) -> None:
    lines = [("/1.png", "cat"), ("/2.png", "dog"), ("/1.png?again", "cat"), ("/gone.png", "cat")]
    first = run("collect", images.listed(*lines), "photos")
    assert len(images.asked()) == 4

    again = run("collect", images.listed(*lines), "photos")

    assert images.asked() == ["/gone.png"]
    assert "1 of 4 lines has no image: 1 not found" in again.err
    assert (again.out, again.status) == (first.out, 0)
    next(Path("photos/dog").iterdir()).unlink()
    run("collect", images.listed(*lines, ("/5.png", "dog")), "photos")
    assert images.asked() == ["/2.png", "/5.png", "/gone.png"]
    assert files() == {"cat": [image(1)], "dog": content(2, 5)}


def test_file_that_lost_its_content_is_fetched_again(images: Images, run: Command) -> None:
    lines = images.listed(("/1.png", "cat"), ("/2.png", "dog"))
    run("collect", lines, "photos")
    next(Path("photos/cat").iterdir()).write_bytes(b"")  # as after a power failure

    run("collect", lines, "photos")

    assert files() == {"cat": [image(1)], "dog": [image(2)]}


def test_duplicate_in_a_class_is_left_out(images: Images, run: Command) -> None:
    said = run(
        "collect", images.listed(("/1.png", "cat"), ("/1.png?x", "cat"), ("/1.png", "cat"), ("/2.png", "dog")), "photos"
    )

    assert said.out == "cat\t1\ndog\t1\n"
    assert "2 duplicates left out" in said.err
    assert "no image" not in said.err
    assert [report()[number]["problem"] for number in (2, 3, 4)] == ["", *["the same image as line 2"] * 2]


@pytest.mark.parametrize("other", ["/1.png", "/1.png?other"])
def test_image_with_two_classes_is_in_neither_until_the_list_is_right(images: Images, run: Command, other: str) -> None:
    others = [("/2.png", "cat"), ("/3.png", "dog")]

    for _ in range(2):
        said = run("collect", images.listed(("/1.png", "cat"), (other, "dog"), *others), "photos")
        assert "2 of 4 lines have no image: 2 in two classes" in said.err
        assert report()[2]["problem"] == "the same image as line 3, whose class is dog: remove the wrong line"
        assert report()[3]["problem"] == "the same image as line 2, whose class is cat: remove the wrong line"
        assert files() == {"cat": [image(2)], "dog": [image(3)]}
    run("collect", images.listed((other, "dog"), *others), "photos")
    assert files() == {"cat": [image(2)], "dog": content(1, 3)}


def test_contradiction_is_not_fetched_twice(images: Images, run: Command) -> None:
    lines = images.listed(("/1.png", "cat"), ("/1.png?other", "dog"), ("/2.png", "cat"))
    run("collect", lines, "photos")
    images.asked()

    run("collect", lines, "photos")

    assert images.asked() == []


def test_image_that_another_class_has_from_before_is_named(images: Images, run: Command) -> None:
    run("collect", images.listed(("/1.png", "cat"), ("/2.png", "dog")), "photos")
    [there] = Path("photos/cat").iterdir()

    said = run("collect", images.listed(("/1.png", "dog"), ("/2.png", "dog")), "photos")

    assert f"the same image as {there}: remove that file, or correct the class" in said.err
    assert files() == {"cat": [image(1)], "dog": [image(2)]}
    there.unlink()
    run("collect", images.listed(("/1.png", "dog"), ("/2.png", "dog")), "photos")
    assert files() == {"cat": [], "dog": content(1, 2)}


def test_class_whose_folder_has_another_spelling_keeps_its_images(images: Images, run: Command) -> None:
    run("collect", images.listed(("/1.png", "cat"), ("/2.png", "dog")), "photos")
    images.asked()
    if not Path("photos/Cat").exists():  # as on a file system that ignores case
        Path("photos/Cat").symlink_to("cat")

    said = run("collect", images.listed(("/1.png", "Cat"), ("/2.png", "dog"), ("/3.png", "Cat")), "photos")

    assert (said.status, said.out) == (0, "Cat\t2\ndog\t1\n")
    assert files()["cat"] == content(1, 3)
    assert images.asked() == ["/3.png"]


def test_no_secret_of_a_url_is_written_or_printed(images: Images, run: Command) -> None:
    host = images.server.host
    Path("list.csv").write_text(
        f"http://me:s3cr3t-1@{host}/1.png?X-Amz-Signature=s3cr3t-2,cat\n"
        f"http://me:s3cr3t-1@{host}/gone.png?X-Amz-Signature=s3cr3t-2,cat\n"
        f"http://me:s3cr3t-1@{host}/2.png?token=s3cr3t-3,a/b\n"
        f"me:s3cr3t-4@{host}/2.png,cat\n"
    )

    said = run("collect", "list.csv", "photos")

    assert files() == {"cat": [image(1)]}
    written = [file for file in Path("photos").rglob("*") if file.is_file()]
    assert len(written) == 4
    for text in (said.out, said.err, *(file.read_text(errors="replace") + str(file) for file in written)):
        assert "s3cr3t" not in text


def test_words_of_a_server_cannot_control_the_terminal(images: Images, run: Command) -> None:
    words = "\x1b]52;c;cm0gLXJm\x07\x1b[2J\x9b31m\u202e"
    images.others["/odd.png"] = Reply(200, f"<Error><Code>Odd{words}</Code></Error>".encode())

    said = run("collect", images.listed(("/1.png", "cat"), ("/odd.png", "cat")), "photos")

    assert "instead of an image: Odd\\x1b]52;c;cm0gLXJm\\x07\\x1b[2J\\x9b31m\\u202e\n" in said.err
    assert "\x1b" not in said.err


@pytest.mark.parametrize(
    ("text", "status", "why"),
    [
        ("https://10.0.0.1/1.png,cat\n", 1, "10.0.0.1 is on a private network"),
        ("nothing\n", 1, "Error: list.csv has no line with the URL and the class of an image"),
        (None, 1, "Error: No such file or directory: list.csv"),
    ],
)
def test_nothing_fetched_is_a_failure(run: Command, text: str | None, status: int, why: str) -> None:
    if text is not None:
        Path("list.csv").write_text(text)

    said = run("collect", "list.csv", "photos")

    assert (said.status, said.out) == (status, "")
    assert why in said.err
    assert "Next" not in said.err


def test_folder_that_cannot_be_used_is_an_error(images: Images, run: Command) -> None:
    lines = images.listed(("/1.png", "cat"))
    Path("file").touch()
    assert "file isn't a folder" in run("collect", lines, "file").error
    run("collect", lines, "photos")
    assert "the report would overwrite" in run("collect", "photos/collect.csv", "photos").error
    with FileLock("photos/.collect/lock"):
        assert "another process is collecting images into photos" in run("collect", lines, "photos").error


def test_class_whose_place_is_taken_fails_alone(images: Images, run: Command) -> None:
    lines = images.listed(("/1.png", "cat"), ("/2.png", "dog"), ("/3.png", "owl"))
    run("collect", lines, "photos")
    for name in ("cat", "dog"):
        shutil.rmtree(f"photos/{name}")
    Path("photos/cat").touch()
    Path("photos/dog").symlink_to("nowhere")

    said = run("collect", lines, "photos")

    assert said.status == 0
    assert "photos/cat isn't a folder: move it elsewhere" in said.err
    assert "photos/dog isn't a folder: move it elsewhere" in said.err
    assert len(list(Path("photos/owl").iterdir())) == 1


def test_folder_in_place_of_the_report_is_an_error_before_fetching(images: Images, run: Command) -> None:
    Path("photos/collect.csv").mkdir(parents=True)

    assert "photos/collect.csv is a folder" in run("collect", images.listed(("/1.png", "cat")), "photos").error

    assert not Path("photos/cat").exists()


def test_folder_with_a_link_instead_of_its_state_is_an_error(images: Images, run: Command) -> None:
    lines = images.listed(("/1.png", "cat"))
    Path("thesis").mkdir()
    Path("thesis/part-1.txt").touch()
    Path("photos").mkdir()
    Path("photos/.collect").symlink_to("../thesis")

    assert "photos/.collect is a link to another folder" in run("collect", lines, "photos").error

    assert [path.name for path in Path("thesis").iterdir()] == ["part-1.txt"]


def test_one_class_is_not_enough_to_train(images: Images, run: Command) -> None:
    assert "A classifier needs at least two classes" in run("collect", images.listed(("/1.png", "cat")), "photos").err


def test_full_disk_is_an_error_and_leaves_no_half_file(
    images: Images, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise disk_error()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert "No space left on device" in run("collect", images.listed(("/1.png", "cat")), "photos").error

    assert [file.name for file in Path("photos").rglob("*") if file.is_file()] == ["lock"]


def test_ctrl_c_stops_and_the_next_run_goes_on(images: Images, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = images.listed(*((f"/{number}.png", "cat") for number in range(80)))

    def pressed(waiting: set[object]) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(collect_module, "_finish_one", pressed)
        said = run("collect", lines, "photos")
    assert said.status == 130
    assert "Run the command again" in said.err
    fetched = images.asked()
    assert len(fetched) < 80

    run("collect", lines, "photos")

    assert len(files()["cat"]) == 80
    assert len(set(images.asked()) & set(fetched)) == 0


def test_ctrl_c_ends_the_pauses_that_servers_asked_for(
    images: Images, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    class Pausing(Downloader):
        def __init__(self, settings: FetchSettings, stopped: threading.Event) -> None:
            super().__init__(settings, stopped)
            self.stopped = stopped

        def __call__(self, url: str) -> bytes:
            ended.append(self.stopped.wait(60))
            return super().__call__(url)

    def pressed(waiting: set[object]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(collect_module, "Downloader", Pausing)
    monkeypatch.setattr(collect_module, "_finish_one", pressed)

    assert run("collect", images.listed(("/1.png", "cat")), "photos").status == 130

    assert ended == [True]
    assert images.asked() == []


# The process is killed when the third image has its content but not yet its name, or when it isn't noted yet.
KILLED = """
import os, signal
from image_classifier.cli import collect
from image_classifier.cli.main import main
collect.PARALLEL = 1
replace, done = os.replace, []
def killed(source, target):
    done.append(target)
    if len(done) == 3:
        {before}os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = killed
main(["collect", "list.csv", "photos"])
"""


@pytest.mark.parametrize(("before", "kept"), [("", 2), ("replace(source, target); ", 3)])
def test_killed_run_leaves_no_half_image_and_the_next_one_goes_on(
    images: Images, run: Command, before: str, kept: int
) -> None:
    lines = images.listed(*((f"/{number}.png", "cat") for number in range(6)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = KILLED.format(before=before)
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files()["cat"] == content(*range(kept))
    with Path("photos/.collect/known.csv").open("a") as known:
        known.write("0123")  # of a line that was cut, too
    Path("photos/.collect/part-0123").write_bytes(b"half")  # of an image that is no longer in the list
    images.asked()

    said = run("collect", lines, "photos")

    assert said.out == "cat\t6\n"
    assert files()["cat"] == content(*range(6))
    assert images.asked() == [f"/{number}.png" for number in range(2, 6)]
    assert sorted(file.name for file in Path("photos/.collect").iterdir()) == ["known.csv", "lock"]
    assert run("collect", lines, "photos").out == "cat\t6\n"
    assert images.asked() == []


def test_images_are_fetched_in_parallel(images: Images, run: Command) -> None:
    together = threading.Barrier(collect_module.PARALLEL)
    images.before = lambda: together.wait(60)  # until as many are asked for at once
    lines = images.listed(*((f"/{number}.png", "cat") for number in range(collect_module.PARALLEL)))

    assert run("collect", lines, "photos").out == f"cat\t{collect_module.PARALLEL}\n"


def test_collect_reads_settings_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "IMAGE_HOSTS": " Minio , images.internal:9000,",
        "MAX_IMAGE_BYTES": "'1000'",
        "HTTPS_PROXY": "http://me:s3cr3t@proxy:3128",
        "NO_PROXY": "localhost",
        "MAX_IMAGE_PIXELS": "5000",
    }.items():
        monkeypatch.setenv(name, value)

    settings = CollectSettings()

    assert settings.image_hosts == ("minio", "images.internal:9000")
    assert (settings.max_image_bytes, settings.max_image_pixels) == (1000, 5000)
    assert settings.https_proxy.get_secret_value() == "http://me:s3cr3t@proxy:3128"
    assert "s3cr3t" not in repr(settings)


def test_progress_counts_images_up_to_all_of_them(images: Images, tmp_path: Path) -> None:
    count = 3 * collect_module.PARALLEL
    lines = [Line(number, f"{images.server.url}/{number}.png", "cat") for number in range(count)]
    records: list[dict[str, Any]] = []
    collect_module.collect(lines, tmp_path / "photos", CollectSettings(), records.append)
    done = [record["image"] for record in records]
    assert {record["images"] for record in records} == {count}
    assert done[0] == 0 and done == sorted(done) and done[-1] > count - 2 * collect_module.PARALLEL
