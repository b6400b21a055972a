"""Several parts share Label Studio's answers about a project."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from my_backend.errors import LabelStudioDown, LabelStudioError, LabelStudioUnreachable
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.snapshot import Snapshot
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import FakeServer, Seen, json_reply

QUESTIONS: list[Callable[[Snapshot], Any]] = [
    Snapshot.project,
    Snapshot.backends,
    Snapshot.webhooks,
    Snapshot.watermark,
]
PATHS = ["/api/projects/7/", "/api/ml/", "/api/webhooks/", "/api/tasks/"]


def of(url: str, token: str = "") -> Snapshot:
    return Snapshot(LabelStudio(url, token, SafeSession(["127.0.0.1"])), 7)


def asked(server: FakeServer) -> Counter[str]:
    return Counter(path.partition("?")[0] for path in server.paths() if "/token/" not in path)


def test_each_question_is_asked_once_and_again_after_a_change(label_studio: FakeLabelStudio) -> None:
    snapshot = of(label_studio.url, label_studio.pat)
    assert asked(label_studio.server) == {}
    first = [ask(snapshot) for ask in QUESTIONS]
    label_studio.project["title"] = "Renamed"

    assert [ask(snapshot) for ask in QUESTIONS] == first
    assert asked(label_studio.server) == dict.fromkeys(PATHS, 1)

    snapshot.expire()
    assert snapshot.project()["title"] == "Renamed"
    assert asked(label_studio.server) == {**dict.fromkeys(PATHS, 1), "/api/projects/7/": 2}


def test_models_are_in_the_order_in_which_label_studio_asks_them(label_studio: FakeLabelStudio) -> None:
    label_studio.backends = [{"id": 2}, {"id": 1}]

    assert [one["id"] for one in of(label_studio.url, label_studio.pat).backends()] == [1, 2]


def test_error_answers_its_own_question_only() -> None:
    def answer(seen: Seen) -> Any:
        return json_reply({}, 500) if seen.path.startswith("/api/ml/") else json_reply({"id": 7})

    with FakeServer(answer) as server:
        snapshot = of(server.url)
        for _ in range(2):
            with pytest.raises(LabelStudioDown, match="500 to GET /api/ml/"):
                snapshot.backends()
        assert snapshot.project() == {"id": 7}
        assert asked(server) == {"/api/ml/": 1, "/api/projects/7/": 1}


def test_nothing_more_is_asked_if_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = of("http://127.0.0.1:1")
    with pytest.raises(LabelStudioUnreachable, match="Can't reach Label Studio"):
        snapshot.backends()
    tried: list[str] = []
    monkeypatch.setattr(SafeSession, "request", lambda self, method, url, **more: tried.append(url))

    for ask in QUESTIONS:
        with pytest.raises(LabelStudioError, match="Can't reach Label Studio"):
            ask(snapshot)
    assert tried == []
