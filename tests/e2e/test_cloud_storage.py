"""Images in a bucket: a real Label Studio reads it or signs links to it, and the backend predicts and learns."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.http_server import FakeServer, Reply, Seen
from testing.label_studio import LabelStudio
from tests.e2e.projects import Digits, wait_for_new_version

SETTINGS = {"RETRAIN_AFTER_ANNOTATIONS": "0", "IMAGE_SIZE": "64", "WEIGHTS": "none", "TRAIN_MODE": "head"}
BUCKET = "photos"  # of each storage
LABELED = 30
NAMES = ("a b+c.png", "größe 数字.png", "50% & #1.png", "below/a prefix/1.png", "(it's) [1]~;,@=.png")


class FakeS3:
    """As much of S3 as Label Studio and a presigned link need: one bucket."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.given: set[str] = set()  # the objects that were fetched
        self.is_down = threading.Event()

    @contextmanager
    def running(self) -> Iterator["FakeS3"]:
        with FakeServer(self._answer) as self.server:
            yield self

    @staticmethod
    def _key(seen: Seen) -> str:
        return unquote(urlsplit(seen.path).path).removeprefix(f"/{BUCKET}").removeprefix("/")

    def _answer(self, seen: Seen) -> Reply:
        if seen.method == "HEAD":
            return Reply()
        if self.is_down.is_set():
            return _xml("<Error><Code>SlowDown</Code></Error>", 503)
        key = self._key(seen)
        if not key:
            found = "".join(f"<Contents><Key>{quote(key)}</Key></Contents>" for key in self.objects)
            encoding = "<EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>"
            return _xml(f"<ListBucketResult>{encoding}{found}</ListBucketResult>", 200)
        if key not in self.objects:
            return _xml("<Error><Code>NoSuchKey</Code></Error>", 404)
        self.given.add(key)
        return Reply(200, self.objects[key], {"Content-Type": "image/png"})


def _xml(text: str, status: int) -> Reply:
    return Reply(status, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), {"Content-Type": "application/xml"})


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    with Backend(folder, label_studio, IMAGE_HOSTS="127.0.0.1", **SETTINGS) as running:
        yield running


# One after the other with the same backend: the second bucket has the same name and keys, but is another one.
@pytest.mark.parametrize("presign", [True, False], ids=["presigned links", "through Label Studio"])
def test_images_of_a_bucket_are_predicted_and_learned(
    label_studio: LabelStudio, backend: Backend, digits: Digits, presign: bool
) -> None:
    project = label_studio.create_project("bucket", LABEL_CONFIG)
    with FakeS3().running() as s3:
        s3.objects |= {name: digits[n][0].read_bytes() for n, name in enumerate(NAMES, start=LABELED)}
        storage = {
            "project": project,
            "bucket": BUCKET,
            "s3_endpoint": s3.server.url,
            "aws_access_key_id": "id",
            "aws_secret_access_key": "secret",
            "use_blob_urls": True,
            "recursive_scan": True,
            "presign": presign,
            "presign_ttl": 1,
        }
        number = label_studio.request("POST", "/api/storages/s3", json=storage).json()["id"]
        assert label_studio.request("POST", f"/api/storages/s3/{number}/sync").json()["status"] == "completed"
        tasks = [task["id"] for task in label_studio.tasks(project)]
        labeled = {f"labeled/{n}.png": digit for n, digit in enumerate(digits[:LABELED])}
        s3.objects |= {key: path.read_bytes() for key, (path, _) in labeled.items()}
        imported = [{"data": {"image": f"s3://{BUCKET}/{key}"}} for key in labeled]
        for task, (_, label) in zip(label_studio.import_tasks(project, imported), labeled.values(), strict=True):
            label_studio.annotate(task, label)

        label_studio.start_training(label_studio.connect(project, backend.url))
        wait_for_new_version(backend, project, "untrained")
        s3.is_down.set()
        label_studio.retrieve_predictions(project, tasks)
        assert label_studio.predictions(project) == {}
        s3.is_down.clear()
        label_studio.retrieve_predictions(project, tasks)

    assert len(tasks) == len(NAMES)
    assert set(label_studio.predictions(project)) == set(tasks)
    assert s3.given == set(s3.objects)
    for seen in s3.server.seen:
        assert "Cookie" not in seen.headers
        assert label_studio.personal_access_token not in str(seen)
        assert not seen.headers.get("Authorization", "").startswith(("Bearer ", "Token "))
        is_signed = "X-Amz-Signature" in parse_qs(urlsplit(seen.path).query)
        assert is_signed == ("Boto" not in seen.headers["User-Agent"]), "the backend has a link, Label Studio a key"
    log = (backend.folder / "backend.log").read_text("utf-8")
    assert ("answered 503 (SlowDown)" if presign else "it couldn't read the file from the storage") in log
