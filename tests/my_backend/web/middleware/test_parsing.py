import gc
import gzip
import io
import json
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from my_backend.web.middleware import auth, parsing
from testing.fake_label_studio.server import PNG
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.web.requests_of_label_studio import CREATED_AT

# Those that need nothing of a body, and so do something without one. None of them takes anything away.
MAY_BE_EMPTY = {
    "/versions",
    "/train",
    "/api/models/train",
    "/api/embeddings/start",
    "/api/embeddings/stop",
    "/api/labeling/groups",
    "/api/labeling/map",
    "/api/labeling/queue",
    "/api/labeling/runs/{run_id}/undo",
    "/api/labeling/runs/{run_id}/resume",
}


def posts(client: Client) -> list[str]:
    """All paths to which something can be posted."""
    return [rule.rule for rule in client.http.application.url_map.iter_rules() if "POST" in (rule.methods or ())]


def posts_with_body(client: Client) -> list[str]:
    """Those of them that read a body."""
    paths = client.get("/openapi.json")["paths"]
    return [path for path, methods in paths.items() if "requestBody" in methods.get("post", {})]


def state(client: Client) -> object:
    """What requests change."""
    backend = client.backend
    projects = [vars(project) for project in backend.projects.all()]
    return projects, backend.job_store.all(), backend.labeling.store.of_project(PROJECT)


def post(client: Client, path: str, **given: Any) -> Any:
    response = client.http.post(path, **given)
    response.close()
    return response


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({"headers": {"Transfer-Encoding": "chunked"}}, 411),
        ({"headers": {"Transfer-Encoding": "gzip, Chunked"}, "data": b"{}"}, 411),
        ({"headers": {"Content-Encoding": "gzip"}, "data": gzip.compress(b"{}")}, 415),
        ({"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "abc"}}, 400),
        ({"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "-2"}}, 400),
        ({"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "2, 2"}}, 400),
        ({"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "3"}}, 400),
        ({"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": "999999999999"}}, 413),
    ],
)
def test_body_that_cannot_be_read_is_refused_everywhere(client: Client, given: dict[str, Any], status: int) -> None:
    before = state(client)
    assert {post(client, path, **given).status_code for path in posts(client)} == {status}
    assert state(client) == before


NO_JSON_OBJECT = {
    "broken": b'{"project": 7',
    "more after it": b'{"project": 7} {}',
    "twice the same name": b'{"project": 8, "project": 7}',
    "UTF-16": '{"project": 7}'.encode("utf-16"),
    "not UTF-8": b'{"project": "\xff"}',
    "nested too deep": b'{"project":' * 1000,
    "XML": b"<project>7</project>",
    "a form": b"project=7",
    "a list": b'[{"project": 7}]',
    "a text": b'"7"',
    "a number": b"7",
    "null": b"null",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("body", NO_JSON_OBJECT.values(), ids=NO_JSON_OBJECT)
def test_body_that_is_no_json_object_is_refused_everywhere(client: Client, body: bytes) -> None:
    before = state(client)
    assert {post(client, path, data=body).status_code for path in posts_with_body(client)} == {400}
    assert state(client) == before


@pytest.mark.parametrize("form", [{"project": "8"}, {}])
def test_form_does_not_count_as_an_empty_body(client: Client, form: dict[str, str]) -> None:
    before = state(client)
    given = {"data": form, "content_type": "multipart/form-data; boundary=a"}
    answers = {path: post(client, path, **given).status_code for path in posts_with_body(client)}
    assert {path for path, status in answers.items() if status == 400} == {"/api/models/predict", "/api/models/retrain"}
    assert set(answers.values()) == {400, 415}
    assert state(client) == before


@pytest.mark.parametrize("given", [{}, {"data": b" \n"}, {"json": {}}])
def test_empty_body_is_refused_unless_nothing_can_be_lost(client: Client, given: dict[str, Any]) -> None:
    refused = [path for path in posts_with_body(client) if post(client, path, **given).status_code == 400]
    assert set(posts_with_body(client)) - set(refused) == MAY_BE_EMPTY
    assert client.backend.projects.get(PROJECT)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data": b" ", "content_type": "application/json"},
        {"json": {}},
        {"json": {"project": None}},
        {"json": {"project": ""}},
        {"json": []},
        {"data": {"project": "7"}},
        {"data": {"project": "7"}, "content_type": "multipart/form-data"},
        {"data": b'{"project": 8, "project": 7}'},
        {"headers": {"Transfer-Encoding": "chunked"}, "data": b'{"project": 7}'},
        {"json": {"project": 8}},
    ],
)
def test_only_a_project_that_is_named_is_deleted(client: Client, given: dict[str, Any]) -> None:
    assert 400 <= post(client, "/delete", **given).status_code < 500
    assert client.backend.projects.get(PROJECT)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/delete", {"Content-Encoding": "gzip"}, 415), ("/health", {}, 405), ("/nothing-here", {}, 404)],
)
def test_small_body_is_read_even_if_its_answer_does_not_need_it(
    client: Client, path: str, headers: dict[str, str], status: int
) -> None:
    """If a server closes a connection before it has read the body, the client may lose the answer."""
    bodies = {size: io.BytesIO(bytes(size)) for size in (1000, parsing.UNUSED_BODY + 1)}
    for size, body in bodies.items():
        given = {"CONTENT_LENGTH": str(size), "wsgi.input": body}
        assert post(client, path, headers=headers, environ_overrides=given).status_code in (status, 413)

    assert [body.tell() for body in bodies.values()] == [1000, 0]


class Unsent(io.BytesIO):
    """A body whose client waits for other answers before it sends it."""

    def __init__(self, size: int, meanwhile: Callable[[], object]) -> None:
        super().__init__(bytes(size))
        self._meanwhile = meanwhile

    def read(self, size: int | None = -1) -> bytes:
        if self._meanwhile:
            self._meanwhile()
        return super().read(size)


def test_only_some_threads_wait_for_bodies_that_nothing_needs(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "READERS_OF_UNUSED_BODIES", 1)
    with serve() as client:

        def ask(body: io.BytesIO) -> None:
            given = {"CONTENT_LENGTH": "1000", "wsgi.input": body}
            assert post(client, "/health", environ_overrides=given).status_code == 405

        def ask_from_another_thread() -> None:
            thread = threading.Thread(target=ask, args=(other,))
            thread.start()
            thread.join()

        other = io.BytesIO(bytes(1000))
        for _ in range(2):  # the second one finds the thread free again
            body = Unsent(1000, ask_from_another_thread)
            ask(body)
            assert (body.tell(), other.tell()) == (1000, 0)


def test_body_is_not_waited_for_once_it_has_been_read(client: Client) -> None:
    content = json.dumps({"project": PROJECT}).encode()

    class Sent(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert self.tell() < len(content), "the client sends no more, and would be waited for"
            return super().read(size)

    given = {"CONTENT_LENGTH": str(len(content)), "wsgi.input": Sent(content)}
    assert post(client, "/versions", environ_overrides=given).status_code == 200


def test_byte_order_mark_before_json_is_ignored(client: Client) -> None:
    for body, status in ((b'{"project": 7}', 200), (b"", 200), (b"{", 400)):
        assert post(client, "/versions", data=b"\xef\xbb\xbf" + body).status_code == status


def test_json_is_read_whatever_type_it_is_said_to_be(client: Client) -> None:
    for content_type in ("application/x-www-form-urlencoded", "text/plain", "", "application/json; charset=utf-16"):
        data = json.dumps({"project": PROJECT, "tasks": []})
        assert post(client, "/predict", data=data, content_type=content_type).status_code == 200


LIMITS = {
    "/setup": 8_000_000,
    "/validate": 8_000_000,
    "/predict": 128_000_000,
    "/train": 128_000_000,
    "/api/models/train": 128_000_000,
    "/webhook": 64_000_000,
    "/api/labeling/runs": 4_000_000,
    "/api/labeling/groups": 4_000_000,
    "/api/labeling/queue": 4_000_000,
    "/api/labeling/runs/<run_id>/undo": 4_000_000,
    "/api/models/predict": 100_000_000 * 4 // 3 + 1_000_000,
    "/api/models/retrain": 100_000_000 * 4 // 3 + 1_000_000,
}


def test_each_endpoint_reads_as_much_as_it_needs(client: Client) -> None:
    for path in posts(client):
        limit = LIMITS.get(path, parsing.SMALL_BODY)
        said = {"data": b"{}", "environ_overrides": {"CONTENT_LENGTH": str(limit + 1)}}

        response = client.http.post(path, **said)

        assert response.status_code == 413, path
        assert f"accepts at most {limit:,}" in response.json["error"], path


def bodies_of(size: int) -> dict[str, bytes]:
    """Bodies that take many times their size in memory."""
    return {
        "tasks": b'{"tasks":[' + b",".join([b'{"data":{}}'] * (size // 12)) + b"]}",
        "objects": b'{"tasks":[{"data":{"a":[' + b",".join([b"{}"] * (size // 3)) + b"]}}]}",
        "lists": b'{"tasks":[{"data":{"a":[' + b",".join([b"[]"] * (size // 3)) + b"]}}]}",
        "numbers": b'{"tasks":[' + b",".join([b"1"] * (size // 2)) + b"]}",
        "nested": b'{"tasks":[{"data":{"a":' + b"[" * (size // 2) + b"]" * (size // 2) + b"}}]}",
        "keys": b'{"tasks":[{"data":{' + b",".join(b'"%d":1' % number for number in range(size // 10)) + b"}}]}",
    }


@pytest.mark.parametrize("kind", bodies_of(0))
@pytest.mark.parametrize("path", ["/predict", "/train", "/webhook"])
def test_body_takes_no_more_memory_than_there_is_for_one(
    client: Client, path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "MOST_OF_ONE_BODY", 8_000_000)
    field = {"/predict": b"tasks", "/train": b"annotations", "/webhook": b"annotations"}[path]
    body = bodies_of(600_000)[kind].replace(b"tasks", field, 1)
    post(client, path, data=b"{")

    tracemalloc.start()
    try:
        response = post(client, path, data=body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert response.status_code < 500
    assert peak < 8_000_000


def test_bodies_of_all_requests_share_memory_and_give_it_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "MOST_OF_ALL_BODIES", 10_000)
    with serve() as client:
        client.setup()
        body = {"project": PROJECT, "tasks": [{"id": 1, "data": {"image": "x" * 3000}}]}
        twice = {"project": PROJECT, "tasks": [{"id": 1, "data": {"image": "x" * 4000}}]}  # its text and its values
        assert post(client, "/predict", json=twice).status_code == 503
        unsent = client.http.post("/predict", json=body)
        assert unsent.status_code == 200
        assert post(client, "/predict", json=body).status_code == 503

        unsent.close()

        assert post(client, "/predict", json=body).status_code == 200


def test_body_for_which_there_is_never_enough_memory_is_too_large(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large MAX_IMAGE_BYTES is. Sending it again later wouldn't help."""
    monkeypatch.setattr(parsing, "MOST_OF_ALL_BODIES", 10_000)
    with serve() as client:
        client.setup()
        image = {"image": (io.BytesIO(PNG + bytes(6000)), "a.png")}

        response = client.http.post("/api/models/predict", data=image, content_type="multipart/form-data")

        assert response.status_code == 413
        assert "accepts at most 5,000" in response.json["error"]


def test_image_that_is_sent_as_text_is_told_how_to_be_uploaded(client: Client) -> None:
    """Such as by `curl -F image=<FILE`, or as a long `data:` URL."""
    client.http.application.config["MAX_FORM_MEMORY_SIZE"] = 1000  # Flask's own limit is 500,000 bytes
    sent = {"url": f"data:image/png;base64,{'A' * 2000}"}

    response = client.http.post("/api/models/predict", data=sent, content_type="multipart/form-data")

    assert response.status_code == 413
    assert "-F image=@FILE" in response.json["error"]


def test_answers_that_are_read_slowly_leave_threads_for_probes(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "FROM_MEMORY_AT_ONCE", 2)
    monkeypatch.setattr(auth, "OTHERS_AT_ONCE", 2)
    with serve() as client:
        unsent = [client.http.post("/setup", json={"project": PROJECT}) for _ in range(2)]
        unsent += [client.http.post("/validate", json={"config": ""}) for _ in range(2)]
        assert {one.status_code for one in unsent} == {200}

        assert post(client, "/setup", json={"project": PROJECT}).status_code == 503
        assert post(client, "/validate", json={"config": ""}).status_code == 503
        assert [client.http.get(path).status_code for path in ("/health", "/ready")] == [200, 200]

        for one in unsent:
            one.close()
        assert post(client, "/setup", json={"project": PROJECT}).status_code == 200
        assert post(client, "/validate", json={"config": ""}).status_code == 200


def test_big_requests_of_label_studio_are_taken(client: Client) -> None:
    choices = "".join(f'<Choice value="A class with a rather long name, number {n}"/>' for n in range(10_000))
    config = f'<View><Image name="i" value="$u"/><Choices name="c" toName="i">{choices}</Choices></View>'
    assert len(client.post("/validate", {"config": config})["choices"]) == 10_000
    client.post("/setup", {"project": "8.1", "schema": config})

    brush = {"type": "brushlabels", "value": {"format": "rle", "rle": list(range(500_000))}}
    annotation = {"id": 1, "task": 1, "result": [brush]}
    project = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "label_config": LABEL_CONFIG}
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project})

    many = [{"id": n, "data": {"image": f"/{n}.png"}, "annotations": [{"id": n, "result": []}]} for n in range(20_000)]
    client.post("/train", {"project": PROJECT, "annotations": many}, 201)
    client.post("/predict", {"project": PROJECT, "tasks": [{"id": 1, "data": {"image": "data:," + "x" * 20_000_000}}]})


def test_no_garbage_is_collected_while_a_body_is_parsed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    collections: list[str] = []
    parsing_now = False
    from_json = parsing.from_json

    def watched(raw: bytes, **options: Any) -> Any:
        nonlocal parsing_now
        parsing_now = True
        try:
            return from_json(raw, **options)
        finally:
            parsing_now = False

    def collected(phase: str, info: dict[str, int]) -> None:
        if parsing_now:
            collections.append(phase)

    monkeypatch.setattr(parsing, "from_json", watched)
    gc.callbacks.append(collected)
    try:
        answer = client.http.post("/predict", data=b'{"tasks": [' + b'{"data":{}},' * 100_000 + b"7]}")
    finally:
        gc.callbacks.remove(collected)

    assert answer.status_code == 400
    assert collections == []
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("path", "body", "status", "named"),
    [
        ("/predict", b"", 400, "tasks"),
        ("/predict", b"{", 400, "JSON"),
        ("/predict", b"[]", 400, "body"),
        ("/predict", b"null", 400, "body"),
        ("/predict", b"\xff\xfe", 400, "JSON"),
        ("/predict", b"[" * 100_000, 400, "JSON"),
        ("/predict", {"tasks": {}}, 400, "tasks"),
        ("/predict", {"tasks": None}, 400, "tasks"),
        ("/predict", {"tasks": [{"id": 1}]}, 400, "tasks.0.data"),
        ("/predict", {"tasks": [{"data": {}}, {"data": []}]}, 400, "tasks.1.data"),
        ("/predict", {"tasks": [{"id": "x", "data": {}}]}, 400, "tasks.0.id"),
        ("/predict", {"tasks": [], "project": "../7"}, 400, "project"),
        ("/predict", {"tasks": [], "project": "abc"}, 400, "project"),
        ("/predict", {"tasks": [], "label_config": 5}, 400, "label_config"),
        ("/setup", {}, 400, "project"),
        ("/setup", {"project": "../../etc"}, 400, "project"),
        ("/setup", {"project": "abc"}, 400, "project"),
        ("/setup", {"project": "7" * 100}, 400, "project"),
        ("/setup", {"project": 7, "schema": 5}, 400, "schema"),
        ("/webhook", {}, 400, "action"),
        ("/webhook", {"action": "X", "project": 7}, 400, "project"),
        ("/webhook", {"action": "X", "project": {"id": 7}}, 400, "created_at"),
        ("/webhook", {"action": "X", "project": {"id": -1, "created_at": CREATED_AT}}, 400, "id"),
        ("/webhook", {"action": "X", "project": {"id": "9" * 500, "created_at": CREATED_AT}}, 400, "id"),
        ("/webhook", b'{"action": "X", "project": {"id": 1e999, "created_at": "2026-11-20T13:35:51Z"}}', 400, "id"),
        ("/webhook", {"action": "X", "annotation": 5}, 400, "annotation"),
        ("/train", {"annotations": []}, 400, "annotations"),
        ("/train", {"annotations": [{}]}, 400, "annotations.0.data"),
        ("/train", {"annotations": [{"data": {}, "annotations": ["Cat"]}]}, 400, "annotations.0.annotations.0"),
        ("/train", {"annotations": [{"data": {}, "completions": {}}]}, 400, "annotations.0.completions"),
        (
            "/train",
            {"annotations": [{"data": {}, "annotations": [{"id": 5, "result": 5}]}]},
            400,
            "annotations.0.annotations.0.result: Input should be a valid list",
        ),
        ("/job_status", {}, 400, "job"),
        ("/job_status", {"job": 5}, 400, "job"),
        ("/job_status", {"job": "x" * 5000}, 404, "no job"),
        ("/job_status", {"job": "*"}, 404, "no job"),
        ("/job_status", {"job": "\0"}, 404, "no job"),
        ("/api/jobs/none/cancel", {}, 404, "no job"),
        ("/api/models/activate", {}, 400, "version"),
        ("/api/models/activate", {"version": "../.."}, 404, "no version ../.."),
        ("/api/models/predict", {}, 400, "url"),
        ("/api/models/predict", {"url": 5}, 400, "url"),
        ("/api/models/retrain", {"url": "data:,x"}, 400, "label"),
        ("/api/models/retrain", {"url": "data:,x", "label": 5}, 400, "label"),
        ("/api/models/retrain", {"label": "Cat"}, 400, "url"),
        ("/validate", {}, 400, "config"),
        ("/duplicate_model", {}, 400, "project_src"),
        ("/duplicate_model", {"project_src": "../x", "project_dst": "8.1"}, 400, "project_src"),
        ("/duplicate_model", {"project_src": "9.1", "project_dst": "8.1"}, 404, "project 9.1 is not connected"),
        ("/unknown", {}, 404, "/unknown"),
        ("/health", {}, 405, "POST /health"),
    ],
)
def test_request_of_no_sense_is_refused_and_the_field_named(
    client: Client, path: str, body: Any, status: int, named: str
) -> None:
    options = {"data": body} if isinstance(body, bytes) else {"json": body}

    response = client.http.post(path, **options)

    assert response.status_code == status, response.text
    assert set(response.json) == {"error", "request_id"}
    assert named in response.json["error"]
    assert client.predict()["results"] == [[]]  # and nothing is broken by it
