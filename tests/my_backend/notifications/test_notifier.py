"""Each event reaches the receiver once, whatever happens meanwhile."""

import errno
import time
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.diagnostics.lasting import LastingProblems
from my_backend.diagnostics.problem import Problem
from my_backend.jobs.record import new_job
from my_backend.jobs.run import RunningJob, run_job
from my_backend.jobs.store import KEPT_JOBS, JobStore
from my_backend.notifications import notifier as notifier_module
from my_backend.notifications import outbox as outbox_module
from my_backend.notifications.notice import Notice
from my_backend.notifications.notifier import Notifier
from my_backend.notifications.outbox import Outbox
from my_backend.notifications.trainings import Trainings
from my_backend.projects.registry import Projects
from safe_http.redaction import redact
from testing.http_server import Reply
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, MakeSettings, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.jobs.conftest import submitted
from tests.my_backend.notifications.conftest import Inbox

FIGURES = {"accuracy": 0.912, "accuracy_low": 0.88, "accuracy_high": 0.94}


def watched(client: Client) -> None:
    """Waits until the server knows which trainings ended before it started."""
    assert eventually((client.backend.projects.root / outbox_module.OUTBOX_FILE).exists)


def test_trained_version_is_told_once_also_after_a_restart(serve: Serve, script: Script, inbox: Inbox) -> None:
    script.set(output={"figures": FIGURES})
    settings = {"notify_url": inbox.url, "page_url": "https://models.example/"}
    with serve(**settings) as client:
        watched(client)
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG, title="Pets <!channel>")
        first = client.train()
        [message] = inbox.wait_for("version-live")
    with serve(**settings) as client:
        second = client.train()
        messages = inbox.wait_for("version-live", 2)

    url = f"https://models.example/projects/{PROJECT}/versions/{first}"
    assert message["text"] == (
        f"Pets ‹!channel› (project 7): {first} is trained and live. Accuracy: 91.2% (88% to 94%). {url}"
    )
    assert message["url"] == url
    assert (message["project"], message["project_title"]) == (PROJECT, "Pets <!channel>")
    assert {name: message[name] for name in FIGURES} == FIGURES
    assert [message["version"] for message in messages] == [first, second]


def test_held_back_version_and_failed_training_are_told(serve: Serve, script: Script, inbox: Inbox) -> None:
    with serve(notify_url=inbox.url) as client:
        watched(client)
        client.setup()
        live = client.train()
        script.set(output={"held_back": "it is worse."})
        job = client.ended(client.submit_training())
        [held_back] = inbox.wait_for("version-held-back")
        script.set(fit_says="Label more images.")
        client.ended(client.submit_training())
        [failed] = inbox.wait_for("training-failed")

    assert held_back["version"] == job.result["versions"][0]
    assert "is trained, but held back: it is worse. http://127.0.0.1:9090/projects/" in held_back["text"]
    assert failed["message"] == "Training failed: Label more images."
    assert [message["version"] for message in inbox.named("version-live")] == [live]


def test_receiver_that_is_down_gets_each_message_once_it_is_up(serve: Serve, inbox: Inbox) -> None:
    inbox.reply = Reply(503, b"maintenance")
    with serve(notify_url=inbox.url) as client:
        watched(client)
        client.setup()
        client.train()

        def problems() -> list[str]:
            return [one["message"] for one in client.get("/problems")["troubles"] if one["code"] == "notify"]

        assert eventually(lambda: problems() == ["Can't deliver notifications: 127.0.0.1 answered 503 (maintenance)."])
        assert eventually(lambda: inbox.tried > 3)
        inbox.reply = Reply(200)
        inbox.wait_for("version-live")
        assert eventually(lambda: not problems())
        client.train()
        inbox.wait_for("version-live", 2)
    assert len({message["id"] for message in inbox.messages}) == len(inbox.messages)


def test_problem_is_told_after_a_while_and_once(make_settings: MakeSettings, tmp_path: Path, inbox: Inbox) -> None:
    problems: list[Problem] = []
    projects = Projects(tmp_path)
    projects.remember(PROJECT, label_config=LABEL_CONFIG, title="Pets")
    sources = [LastingProblems(projects, lambda: problems)]
    notifier = Notifier(make_settings(notify_url=inbox.url), Outbox(tmp_path), sources)
    notifier.start()
    try:
        problems.append(Problem("images", "3 images can't be read.", "Look at them.", PROJECT))
        inbox.wait_for("problem")
        problems[:] = []
        problems[:] = [Problem("notify", "Can't deliver."), Problem("images", "4 images can't be read.", "", PROJECT)]
        problems.append(Problem("redis", "Redis is unreachable."))
        messages = inbox.wait_for("problem", 2)
    finally:
        notifier.stop()

    assert [message["code"] for message in messages] == ["images", "redis"]
    assert messages[0]["message"] == "Action needed: 3 images can't be read. Look at them."
    assert messages[0]["text"].startswith("Pets (project 7): Action needed: 3 images")
    assert messages[1]["text"] == "Action needed: Redis is unreachable. http://127.0.0.1:9090/"


def test_problem_that_passes_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    problems = [Problem("redis", "Redis is unreachable.")]
    found = LastingProblems(Projects(tmp_path), lambda: problems)

    assert list(found()) == []


def test_two_servers_tell_each_event_once(make_settings: MakeSettings, tmp_path: Path, inbox: Inbox) -> None:
    projects, store = Projects(tmp_path), JobStore(tmp_path)
    projects.remember(PROJECT, label_config=LABEL_CONFIG)
    settings = make_settings(notify_url=inbox.url)
    notifiers = [Notifier(settings, Outbox(tmp_path), [Trainings(projects, store)]) for _ in range(2)]
    for notifier in notifiers:
        notifier.start()
    try:
        assert eventually((tmp_path / outbox_module.OUTBOX_FILE).exists)
        for number in range(1, 6):
            job = {"id": f"full-{number}", "kind": "full", "created": float(number), "ended": time.time()}
            submitted(store, PROJECT, **job, status="failed", error="no")
            inbox.wait_for("training-failed", number)
    finally:
        for notifier in notifiers:
            notifier.stop()

    assert [message["job"] for message in inbox.messages] == [f"full-{number}" for number in range(1, 6)]


def test_refused_message_does_not_hold_up_the_next(make_settings: MakeSettings, tmp_path: Path, inbox: Inbox) -> None:
    problems = [Problem("redis", "Redis is unreachable.")]
    inbox.reply = Reply(400, b"invalid_payload")
    settings, outbox = make_settings(notify_url=inbox.url), Outbox(tmp_path)
    notifier = Notifier(settings, outbox, [LastingProblems(Projects(tmp_path), lambda: problems)])
    notifier.start()
    try:
        assert eventually(lambda: notifier.failure() == "127.0.0.1 answered 400 (invalid_payload)")
        inbox.reply = Reply(200)
        problems.append(Problem("disk", "The disk is full."))
        [message] = inbox.wait_for("problem")
        assert eventually(lambda: notifier.failure() == "")
    finally:
        notifier.stop()

    assert message["code"] == "disk"
    assert inbox.tried == 2


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"damaged", {"Content-Encoding": "gzip"}),
        Reply(200, headers={"Content-Length": "1000"}, parts=[b"cut short"]),
        Reply(200, b"x" * 100_000),
    ],
    ids=["damaged", "cut short", "too large"],
)
def test_accepted_message_is_not_sent_again_whatever_the_answer_says(
    reply: Reply, make_settings: MakeSettings, tmp_path: Path, inbox: Inbox
) -> None:
    inbox.reply = reply
    notifier = Notifier(
        make_settings(notify_url=inbox.url), Outbox(tmp_path), [lambda: [notice("a", time.time(), "problem")]]
    )
    notifier._tick()

    assert (inbox.tried, Outbox(tmp_path).waiting(), notifier.failure()) == (1, [], "")


def test_full_disk_is_told(
    make_settings: MakeSettings, tmp_path: Path, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    problems = [Problem("disk", "Can't write.")]
    monkeypatch.setattr(files, "write_json", refuse)
    monkeypatch.setattr(files, "_lock_file", refuse)
    found = LastingProblems(Projects(tmp_path), lambda: problems)
    notifier = Notifier(make_settings(notify_url=inbox.url), Outbox(tmp_path), [found])
    notifier.start()
    try:
        inbox.wait_for("problem")
        problems.append(Problem("redis", "Redis is unreachable."))
        messages = inbox.wait_for("problem", 2)
    finally:
        notifier.stop()

    assert [message["code"] for message in messages] == ["disk", "redis"]


def test_nothing_is_watched_without_an_address(make_settings: MakeSettings, tmp_path: Path) -> None:
    notifier = Notifier(make_settings(), Outbox(tmp_path), [lambda: pytest.fail("looked")])

    assert notifier._tick() is None
    assert notifier.failure() == ""


# --- which trainings are news -----------------------------------------------------


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    projects = Projects(tmp_path)
    projects.remember(PROJECT, label_config=LABEL_CONFIG)
    return Trainings(projects, JobStore(tmp_path))


def keys(trainings: Trainings) -> list[str]:
    return [notice.key for notice in trainings()]


def test_failing_corrections_are_one_event_until_they_work(trainings: Trainings, tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    submitted(store, PROJECT, id="head-1", created=1.0, status="failed", error="no")
    submitted(store, PROJECT, id="head-2", created=2.0, status="failed", error="no")
    submitted(store, PROJECT, id="head-3", created=3.0, status="started")
    assert keys(trainings) == [f"{PROJECT} corrections fail"]

    submitted(store, PROJECT, id="head-3", created=3.0, status="finished", result={"versions": ["v1-20261120T133551"]})
    assert keys(trainings) == []


def test_end_of_a_long_training_is_news_however_many_corrections_came_meanwhile(
    trainings: Trainings, tmp_path: Path
) -> None:
    store = JobStore(tmp_path)
    long = submitted(store, **vars(new_job(PROJECT, "full", "test")))
    for number in range(KEPT_JOBS + 1):
        submitted(store, PROJECT, created=long.created + 1 + number, status="finished")

    def fail(running: RunningJob) -> dict[str, Any]:
        raise RuntimeError("out of memory")

    run_job(long, store, fail, lambda: False)

    assert keys(trainings) == [f"{long.id} failed"]


def test_training_that_was_canceled_or_whose_version_is_gone_is_no_news(trainings: Trainings, tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    submitted(store, PROJECT, id="full-1", kind="full", created=1.0, status="canceled")
    gone = {"versions": ["v1-20261120T133551"]}
    submitted(store, PROJECT, id="full-2", kind="full", created=2.0, status="finished", result=gone)
    assert keys(trainings) == []


# --- what is kept -----------------------------------------------------------------


def notice(key: str, happened: float, event: str = "training-failed") -> Notice:
    return Notice(key, event, "It failed.", happened)  # type: ignore[arg-type]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, which a test can set."""
    now = [1_800_000_000.0]
    monkeypatch.setattr(outbox_module.time, "time", lambda: now[0])
    return now


def test_trainings_of_before_are_no_news_but_problems_are(tmp_path: Path, now: list[float]) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([notice("a", now[0]), notice("b", now[0], "problem")])
    outbox.add([notice("a", now[0]), notice("b", now[0], "problem"), notice("c", now[0])])

    assert [one.key for one in outbox.waiting()] == ["b", "c"]


def test_stale_messages_are_not_sent(tmp_path: Path, now: list[float]) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([])
    outbox.add([notice("a", now[0])])
    outbox.add([notice("old", now[0] - 90_000)])
    assert [one.key for one in outbox.waiting()] == ["a"]

    now[0] += 90_000
    assert outbox.waiting() == []


def test_event_is_news_again_if_nobody_saw_it_for_an_hour(tmp_path: Path, now: list[float]) -> None:
    outbox, other = Outbox(tmp_path), Outbox(tmp_path)
    outbox.add([notice("a", now[0], "problem")])
    outbox.done(notice("a", now[0]))
    for _ in range(20):  # another server still sees it
        now[0] += 600
        other.add([notice("a", now[0], "problem")])
        outbox.add([])
    assert outbox.waiting() == []

    now[0] += 3601
    outbox.add([notice("b", now[0], "problem")])
    outbox.add([notice("a", now[0], "problem"), notice("b", now[0], "problem")])
    assert [one.key for one in outbox.waiting()] == ["b", "a"]


def test_time_without_a_server_does_not_count(tmp_path: Path, now: list[float]) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([notice("a", now[0], "problem")])
    outbox.done(notice("a", now[0]), failure="no answer")
    now[0] += 36_000
    again = Outbox(tmp_path)
    again.resume()
    again.add([notice("b", now[0], "problem")])
    again.add([notice("a", now[0], "problem")])

    assert [one.key for one in again.waiting()] == ["b"]
    assert again.failure() == ""


def test_messages_outlast_a_moment_in_which_their_file_cannot_be_opened(
    tmp_path: Path, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    outbox = Outbox(tmp_path)
    outbox.add([notice("a", now[0])])
    outbox.add([notice("a", now[0]), notice("b", now[0])])
    with monkeypatch.context() as full:
        full.setattr(files, "_read_once", refuse)
        outbox.failed("no answer")
        outbox.add([notice("a", now[0]), notice("b", now[0]), notice("c", now[0])])
        assert [one.key for one in outbox.waiting()] == ["b", "c"]

    assert ([one.key for one in outbox.waiting()], outbox.failure()) == (["b", "c"], "no answer")
    assert [one.key for one in Outbox(tmp_path).waiting()] == ["b", "c"]


@pytest.mark.parametrize(("seconds", "expected"), [(60.0, ["training-failed", "problem"]), (-1.0, ["problem"])])
def test_messages_outlast_a_start_at_which_their_file_cannot_be_opened(
    seconds: float,
    expected: list[str],
    make_settings: MakeSettings,
    tmp_path: Path,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    Outbox(tmp_path).add([])
    Outbox(tmp_path).add([notice("old", time.time())])
    monkeypatch.setattr(notifier_module, "RESUME_SECONDS", seconds)
    found = [lambda: [notice("new", time.time(), "problem")]]
    notifier = Notifier(make_settings(notify_url=inbox.url), Outbox(tmp_path), found)
    with monkeypatch.context() as full:
        full.setattr(files, "_read_once", refuse)
        notifier._tick()
    notifier._tick()

    assert [message["event"] for message in inbox.messages] == expected


def test_only_some_messages_wait(tmp_path: Path, now: list[float]) -> None:
    outbox = Outbox(tmp_path)
    outbox.add([])
    outbox.add([notice(str(number), now[0]) for number in range(500)])

    assert [one.key for one in outbox.waiting()] == [str(number) for number in range(400, 500)]


def test_words_are_bounded_and_mention_nobody() -> None:
    said = Notice("a", "problem", "@here " + "x" * 10_000, 0.0, "7.1", "[x](http://bad)").payload("")

    assert said["text"].startswith("(x)(http://bad) (project 7): ＠here xxx")
    assert len(said["text"]) < 2100
    assert "url" not in said


def test_words_contain_no_secret_with_characters_that_are_replaced() -> None:
    redact.know(["p@ss<w>[1]"])
    try:
        message = "can't reach redis://bob:hunter22@host: p@ss<w>[1]"
        said = Notice("a", "problem", message, 0.0, "7.1", "at http://u:pa55w0rd@host").payload("")
    finally:
        redact.forget(["p@ss<w>[1]"])

    assert said["text"] == "at http://u:***＠host (project 7): can't reach redis://bob:***＠host: ***"


def test_title_and_words_are_one_line() -> None:
    said = Notice("a", "problem", "It failed:\n\tno space", 0.0, "7.1", "Pets\r\nAll is well").payload("")

    assert said["text"] == "Pets All is well (project 7): It failed: no space"
