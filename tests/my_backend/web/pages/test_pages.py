import json
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.jobs.record import EMBED, new_job
from my_backend.label_studio.connection import read_connection
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.recent_predictions import Sighting
from my_backend.serving.model_api import ModelAPI
from my_backend.web.pages import etag, review
from my_backend.web.pages.filters import code
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.embedded_ranges import SPACE, add_range
from tests.my_backend.fake_model import LABEL_CONFIG, Script

HTML = {"Accept": "text/html"}
HERE = f"/projects/{PROJECT}"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def page(client: Client, path: str = HERE, status: int = 200) -> str:
    response = client.http.get(path, headers=HTML)
    assert response.status_code == status, response.text
    assert response.mimetype == "text/html"
    return response.text


def words(client: Client, path: str = HERE) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page(client, path)).split())


class Tags(HTMLParser):
    """The tags and the attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# --- all projects ---------------------------------------------------------------


def test_page_without_projects_says_how_to_connect_one(serve: Serve) -> None:
    with serve() as client:
        shown = words(client, "/")

    assert "No project is connected yet Give the backend a token In Label Studio, click your avatar" in shown
    assert "Settings → Model → Connect Model . Enter any name and the Backend URL http://localhost" in shown
    assert "LABEL_STUDIO_API_KEY is not set" not in shown, "the first step says it"


def test_first_steps_are_ticked_as_they_are_done(serve: Serve, label_studio: FakeLabelStudio, script: Script) -> None:
    def done(client: Client) -> list[str]:
        return re.findall(r"Done: </span>\s*<strong>([^<]*)", page(client))

    with serve() as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert done(client) == ["Connect the backend to a project"]
        assert 'class="next" aria-current="step"><strong>Give the backend a token' in page(client)
        assert "With Docker Compose, put them into .env next to docker-compose.yml" in words(client)
        assert page(client).count('aria-current="step"') == 1
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert done(client) == ["Give the backend a token", "Connect the backend to a project"]
        assert f'href="{label_studio.url}/projects/7/data"' in page(client)
        client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
        assert done(client)[2:] == ["Label a few images for each choice"]
        assert "1 annotation so far." in words(client)
        client.train()
        assert done(client) == []


def test_projects_are_looked_for_where_there_are_many(client: Client) -> None:
    assert "Find a project" not in page(client, "/")
    for number in range(10, 20):
        client.backend.projects.remember(f"{number}.1795181751", label_config=LABEL_CONFIG, title=f"Cats {number}")

    assert "Find a project" in page(client, "/")
    shown = words(client, "/?find=cats+12")
    assert "1 of 11 projects matches “ cats 12 ”" in shown
    assert "Cats 12" in shown
    assert "Cats 13" not in shown
    assert "0 of 11 projects match" in words(client, "/?find=dogs")
    assert EVIL not in page(client, f"/?find={EVIL}")


def test_a_project_shows_its_own_problems_and_why_its_training_failed(client: Client, script: Script) -> None:
    client.setup("8.1795181751", config="<View/>")
    assert "no &lt;Image" not in page(client)
    assert re.search("needs? attention The labeling config has no &lt;Image", words(client, "/projects/8"))

    script.set(fit_raises="no luck")
    client.ended(client.submit_training())
    assert "The last training run failed RuntimeError: no luck" in words(client)
    assert 'data-outcome="failed"' in page(client, f"{HERE}/versions")


def test_what_is_to_be_typed_is_shown_as_code() -> None:
    assert code("start `a <b>` & `c`") == "start <code>a &lt;b&gt;</code> &amp; <code>c</code>"
    assert code("an `open <end") == "an `open &lt;end"


def test_commands_in_messages_of_the_model_class_are_shown_as_code(client: Client, script: Script) -> None:
    script.set(output={name: f"{name}: run `x <{name}>`" for name in ("summary", "warning", "held_back")})
    version = client.ended(client.submit_training()).result["versions"][-1]
    shown = page(client, f"{HERE}/versions/{version}")
    for name in ("summary", "warning", "held_back"):
        assert f"{name}: run <code>x &lt;{name}&gt;</code>" in shown
    assert "<code>x &lt;held_back&gt;</code>" in page(client, f"{HERE}/versions")

    script.set(fit_says="no `fit`")
    client.ended(client.submit_training())
    assert "no <code>fit</code>" in page(client, "/")
    assert page(client).count("no <code>fit</code>") == 2, "above, and in the list of training runs"


def test_first_page_shows_each_project_with_what_is_live(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.9375, "images": 16}, "labels": {"Cat": 3, "Dog": 2}})
    client.train()
    client.setup("8.1795181751")

    shown = words(client, "/")

    assert "Accuracy 93.8% Live version v1 Training labels 5 Labels not yet used 0" in shown
    assert "Live version untrained Training labels 0" in shown


def test_each_page_of_a_project_has_its_own_title(client: Client) -> None:
    tabs = re.findall(rf'<a href="({HERE}[^"]*)"[^>]*>(\w+)</a>', page(client).partition("</nav>")[2])
    assert len(tabs) == 8
    for path, name in tabs:
        assert f"<title>{name} – Project {PROJECT.partition('.')[0]}</title>" in page(client, path)


def test_programs_get_json_and_browsers_the_page(client: Client) -> None:
    for path, key in (("/", "status"), ("/problems", "troubles")):
        assert key in client.get(path)
        assert client.http.get(path, headers={"Accept": "*/*"}).is_json
        assert "<html" in page(client, path)


def test_former_names_of_the_problems_answer_the_same(client: Client) -> None:
    assert eventually(lambda: client.backend.monitor.finding(PROJECT) and not client.backend.monitor.asking)
    assert client.get("/problems")["troubles"]
    assert client.get("/troubles") == client.get("/problems")
    assert words(client, "/troubles") == words(client, "/problems")
    assert client.post("/api/troubles/check", status=202) == client.post("/api/problems/check", status=202)


def test_problem_has_message_and_hint(client: Client) -> None:
    for problem in client.get("/problems")["troubles"]:
        assert (problem["message"], problem["hint"]) == (problem["what"], problem["remedy"])
        assert problem["message"]


@pytest.mark.parametrize(("given", "shown"), [({}, 1), ({"basic_auth_user": "u", "basic_auth_pass": "p"}, 0)])
def test_page_says_once_that_no_password_is_asked_for(serve: Serve, given: dict[str, str], shown: int) -> None:
    with serve(**given) as client:
        client.http.post("/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}, auth=("u", "p"))
        pages = [client.http.get(path, headers=HTML, auth=("u", "p")).text for path in ("/", HERE, "/problems")]

    assert sum(text.count("Anyone who can reach this port") for text in pages) == shown


@pytest.mark.parametrize(
    "path", ["/", "/problems", HERE, f"{HERE}/versions", f"{HERE}/look", f"{HERE}/images/{'0' * 64}.jpg"]
)
def test_reading_needs_the_password(serve: Serve, path: str) -> None:
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        assert client.http.get(path, headers=HTML).status_code == 401


# --- now ------------------------------------------------------------------------


def test_page_shows_the_live_version_its_figures_and_the_jobs(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.9375, "images": 16}, "labels": {"Cat": 3, "Dog": 2}})
    name = client.train()
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    script.set(fit_raises="no luck")
    client.ended(client.submit_training())

    shown = words(client)

    assert "Live v1 Start training Accuracy 93.8% 16 held-out images" in shown
    assert "Training labels 5 2 choices Labels not yet used 1" in shown
    assert name in shown
    assert "Cat 3 Dog 2" in shown
    assert re.search(r"started manually Failed [\d.]+ s RuntimeError: no luck", shown)
    assert "The last training run failed. RuntimeError: no luck" in words(client, "/")


def test_page_shows_how_a_running_job_goes_and_what_waits(client: Client, script: Script) -> None:
    script.block("fit")
    running = client.submit_training()
    client.started(running)
    assert eventually(lambda: "loss" in client.backend.job_store.get(running).progress)
    client.backend.queue.submit(PROJECT, "full", "once more")

    shown = page(client)

    assert '<progress value="0.5" max="1"' in shown
    assert "epoch 1 of 2" in shown
    assert f'data-post="/api/jobs/{running}/cancel"' in shown
    assert "Waiting" in shown
    assert "once more" in shown
    assert 'data-busy="training"' in shown
    assert "Past training runs None yet." in words(client), "not below a heading that includes the running one"
    script.release()


def test_curves_grow_with_the_epochs_and_begin_again_with_a_phase(client: Client, script: Script) -> None:
    script.block("fit", epochs=[{"loss": 0.9}, {"loss": 0.5, "accuracy": 0.75}])
    client.started(client.submit_training())

    def drawn() -> bool:
        return all(name in page(client) for name in ("Loss <strong", "0.500", "Accuracy on held-out images", "75.0%"))

    assert eventually(drawn)
    assert page(client).count("<svg") == 2
    assert "Values by epoch Epoch Loss Accuracy 1 0.900 – 2 0.500 75.0%" in words(client)
    script.release()


@pytest.mark.parametrize(
    ("progress", "shown"),
    [
        ({"epoch": "x", "epochs": 8, "done": "half", "loss": [], "seconds_left": float("inf")}, ""),
        ({"epoch": 3, "epochs": 8, "fit": None, "fits": 5}, "epoch 3 of 8"),
        ({"epoch": 3, "epochs": 8, "fits": "many"}, "epoch 3 of 8"),
        ({"epoch": 10**400, "epochs": float("nan"), "images": 7}, "7 images"),
        ({"images": {}, "phase": [1]}, "[1]"),
    ],
)
def test_running_job_is_shown_whatever_the_model_class_says(
    client: Client, progress: dict[str, Any], shown: str
) -> None:
    job = replace(new_job(PROJECT, "full", "odd"), status="started", progress=progress)
    client.backend.job_store.save(job)

    assert shown in words(client)
    assert shown in words(client, "/")


def test_finished_job_is_shown_whatever_its_result_is(client: Client) -> None:
    for number, result in enumerate(({"versions": 5}, {"versions": {"a": 1}}, {"versions": [None, 7]})):
        job = replace(new_job(PROJECT, "full", f"odd {number}"), status="finished", started=1.0, ended=2.0)
        client.backend.job_store.save(replace(job, result=result))

    shown = words(client)

    assert all(f"odd {number} Finished" in shown for number in range(3))


def test_project_that_cannot_be_shown_leaves_the_others_on_the_page(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/setup", {"project": "8.1", "schema": LABEL_CONFIG})
    client.train()
    newest = client.backend.job_store.newest

    def fails(project: str, count: int) -> Any:
        if project == "8.1":
            raise KeyError("phase")
        return newest(project, count)

    monkeypatch.setattr(client.backend.job_store, "newest", fails)

    shown = words(client, "/")

    assert "Live version v1" in shown
    assert re.search("Project 8 +can't be shown; the log says why", unescape(shown))
    assert "project 8.1: the page can't show it" in caplog.text


def test_canceling_and_training_are_offered_where_they_can_be_done(client: Client, script: Script) -> None:
    posts = {attrs["data-post"] for tag, attrs in Tags(page(client)).found if "data-post" in attrs}
    assert posts == {"/api/models/train"}
    assert json.loads(next(a["data-body"] or "" for _, a in Tags(page(client)).found if "data-body" in a)) == {
        "project": PROJECT
    }


def test_progress_of_shared_embeddings_is_shown_where_they_are_shared(client: Client) -> None:
    embeddings, store = Embeddings(client.backend.projects.folder(PROJECT)), client.backend.job_store

    def posts() -> dict[str, str]:
        found = [attrs for tag, attrs in Tags(page(client)).found if "data-post" in attrs]
        return {str(one["data-post"]): str(one["data-body"]) for one in found}

    assert "Shared embeddings" not in words(client)
    embeddings.want()
    assert "Shared embeddings Stop Waiting for a worker. " in words(client)
    assert posts()["/api/embeddings/stop"] == json.dumps({"project": PROJECT})

    begun = embeddings.begin("v1", SPACE, 1200)
    assert begun is not None
    add_range(embeddings, 0, 1999, images=299, tasks=300)
    store.save(replace(new_job(PROJECT, EMBED, "x"), status="started"))
    store.save(replace(new_job(PROJECT, EMBED, "x"), status="started"))
    assert "Workers have finished 300 of 1,200 tasks; 1 image can’t be read. 2 workers" in words(client)
    assert '<progress value="0.25" max="1" aria-label="Finished tasks">' in page(client)
    assert "/api/embeddings/start" not in posts(), "workers are at it"

    for job in store.unfinished(PROJECT, (EMBED,)):
        store.save(replace(job, status="failed", error=f"no luck {EVIL}", ended=2.0))
    assert "The last job failed: no luck &lt;script&gt;" in words(client)
    assert "/api/embeddings/start" not in posts(), "another job comes by itself"
    embeddings.note_complete(begun)
    shown = words(client)
    assert "Try unreadable images again Stop Workers have finished all 1,200 tasks; 1 image can’t be read. " in shown
    assert "The last job failed" not in shown
    assert 'aria-label="Finished tasks"' not in page(client)
    assert posts()["/api/embeddings/start"] == json.dumps({"project": PROJECT})
    embeddings.stop()
    assert "Shared embeddings" not in words(client)


def test_page_changes_with_shared_embeddings(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))
    embeddings = Embeddings(client.backend.projects.folder(PROJECT))
    tags = [tag_of(client, HERE)]
    embeddings.want()
    tags.append(tag_of(client, HERE))
    embeddings.stop()
    tags.append(tag_of(client, HERE))
    assert tags[0] == tags[2]
    assert tags[0] != tags[1]


def test_only_the_newest_jobs_are_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("full-20261120T101010-aaaaaa", "full-20261121T101010-cccccc", "head-20261121T101010-bbbbbb")
    for number, name in enumerate(names):
        job = replace(new_job(PROJECT, "full", "x"), id=name, status="finished", created=float(number))
        client.backend.job_store.save(job)
    read: list[Path] = []
    examine, asking = files.examine, threading.get_ident()

    def noted(path: Path, parse: Callable[[bytes], Any]) -> Any:
        if threading.get_ident() == asking:  # the backend's own threads read at any time
            read.append(path)
        return examine(path, parse)

    monkeypatch.setattr(files, "examine", noted)

    assert [job.id for job in client.backend.job_store.newest(PROJECT, 1)] == [names[2]]
    assert sorted(path.stem for path in read) == sorted(names[1:]), "and the other one of the same second"
    assert [job.id for job in client.backend.job_store.newest(PROJECT, 9)] == list(names[::-1])


# --- versions -------------------------------------------------------------------

FIGURES = {
    "accuracy": 0.75,
    "images": 4,
    "macro_f1": 0.7,
    "calibration_error": 0.1,
    "per_class": {
        "Cat": {"precision": 1, "recall": 0.5, "f1": 0.667, "images": 2},
        "Dog": {"precision": 0.667, "recall": 1, "f1": 0.8, "images": 2},
    },
    "confusion": [[1, 1], [0, 2]],
    "calibration": [{"answers": 4, "confidence": 0.8, "right": 0.75}],
}


def test_versions_are_listed_with_their_figures_and_drawn(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3}})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.5}, "held_back": "clearly worse"})
    client.ended(client.submit_training())

    text, shown = page(client, f"{HERE}/versions"), words(client, f"{HERE}/versions")

    assert text.count("<svg") == 1
    assert "held back Activate" in shown
    assert "Held back: clearly worse" in shown
    assert "75.0% 10.0% live" in shown
    assert f'href="{HERE}/versions/{first}"' in text


class AlwaysCat(ModelAPI):
    """Stands for a pretrained model that can't be trained."""

    predicts_untrained = True

    def predict(self, tasks: Any, **kwargs: Any) -> Any:
        return [self.prediction("Cat", score=0.9) for _ in tasks]


class LateCat(AlwaysCat):
    """Isn't published yet."""

    @classmethod
    def untrained(cls, label_config: str) -> None:
        return None


class TrainableCat(AlwaysCat):
    def fit(self, tasks: Any, workdir: Any, **kwargs: Any) -> Any:
        return {"trained": True}


@pytest.mark.parametrize(
    ("model_class", "said"),
    [
        ("AlwaysCat", "AlwaysCat can&#39;t be trained: it has no method fit ."),
        ("TrainableCat", "To see them, label images and press Start training ."),
    ],
)
def test_overview_of_a_pretrained_model_says_what_there_is_and_what_there_is_not(
    serve: Serve, model_class: str, said: str
) -> None:
    with serve(model_class=f"{__name__}:{model_class}") as client:
        client.setup()
        assert eventually(lambda: "Live v1" in words(client))
        shown = words(client)
        assert "Training labels 0 the model predicts without training" in shown
        assert "can’t show an accuracy, a forecast or the number of labels per choice." in shown
        assert said in shown
        assert "Choices in the labeling config Cat , Dog" in shown
        assert "can’t predict them yet" not in shown
        can_train = model_class == "TrainableCat"
        assert ('id="train"' in page(client)) is can_train
        assert ('id="correction"' in page(client, f"{HERE}/try")) is can_train
        if can_train:
            client.train()
            assert "doesn’t report how many labels of each choice v2 was trained on" in words(client)


def test_try_does_not_ask_for_labels_if_the_model_needs_none(serve: Serve) -> None:
    with serve(model_class=f"{__name__}:LateCat") as client:
        client.setup()
        shown = words(client, f"{HERE}/try")
        assert "No model to try yet The model class needs no training. This page updates as soon as" in shown


def test_first_guess_is_marked_wherever_it_is_shown(client: Client, script: Script) -> None:
    script.set(output={"first_guess": {"classes": ["Cat"]}, "labels": {}, "summary": "A guess by words."})
    guess = client.train()
    script.set(learn="Cat")

    assert "A guess by words. Next steps:" in words(client, HERE)
    assert "first guess live" in words(client, f"{HERE}/versions")
    assert " first guess " in words(client, f"{HERE}/versions/{guess}")
    assert 'id="download"' not in page(client, f"{HERE}/versions/{guess}")

    learned = client.train()
    assert words(client, f"{HERE}/versions").count("first guess") == 1
    assert " first guess " not in words(client, f"{HERE}/versions/{learned}")
    assert 'id="download"' in page(client, f"{HERE}/versions/{learned}")
    told = client.post("/versions", {"project": PROJECT})["details"]
    assert [version["first_guess"] for version in told] == [False, True]


def test_a_version_shows_confusion_calibration_and_its_mistakes(client: Client, script: Script) -> None:
    mistake = {
        "name": "12",
        "digest": "ab" * 32,
        "label": ["Cat"],
        "predicted": ["Dog"],
        "confidence": 0.93,
        "learned": False,
    }
    script.set(output={"figures": FIGURES}, mistakes=[mistake, {"name": "broken"}, 7])
    name = client.train()

    text, shown = page(client, f"{HERE}/versions/{name}"), words(client, f"{HERE}/versions/{name}")

    assert 'class="right shade-4">1<' in text
    assert re.search('class="wrong shade-4"><a [^>]*>1<', text)
    assert "80% 75% 4" in shown
    assert "labeled Cat model Dog 93% task 12" in shown
    assert f'src="{HERE}/images/{"ab" * 32}.jpg"' in text


FORECAST = {
    "labels": 150,
    "curve": [{"labels": 30, "accuracy": 0.5}, {"labels": 60, "accuracy": 0.6}, {"labels": 120, "accuracy": 0.75}],
    "now": 0.77,
    "expected": [
        {"more": 100, "accuracy": 0.81, "low": 0.74, "high": 0.86},
        {"more": 200, "accuracy": 0.84, "low": 0.76, "high": 0.89},
    ],
}


def test_forecast_is_shown_with_its_interval(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"forecast": FORECAST}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert 'id="forecast-chart"' in page(client, path)
        shown = words(client, path)
        assert "More labels Accuracy 90% interval 100 81% 74% to 86% 200 84% 76% to 89%" in shown
        assert "If the hardest images were labeled first, expect a higher accuracy." in shown
        assert "For the current number of labels, the forecast is 77%." in shown
        assert "less than half a percentage point" not in shown


def test_forecast_says_if_more_labels_bring_little(client: Client, script: Script) -> None:
    flat = [one | {"accuracy": 0.77 + one["more"] / 50_000} for one in FORECAST["expected"]]
    script.set(output={"figures": FIGURES | {"forecast": FORECAST | {"expected": flat, "random_sample": True}}})
    client.train()

    shown = words(client)
    assert "Another 200 labels are expected to raise the accuracy by less than half a percentage point." in shown
    assert "The expected accuracy on new images, based on the images drawn at random." in shown
    assert "If the hardest images were labeled first" not in shown


def test_version_without_a_forecast_shows_none(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert "Forecast" not in words(client, path)


def test_two_versions_are_compared(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.9, "per_class": {"Cat": FIGURES["per_class"]["Cat"]}}})  # type: ignore[index]
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")

    assert "Metric v1 v2 Change Accuracy 75.0% 90.0% +15.0" in shown
    assert "F1 of Dog 80.0% – –" in shown
    assert "no version nothing" in words_of_error(client, f"{HERE}/versions/{second}?with=nothing")


def test_changes_are_shown_only_between_versions_evaluated_the_same_way(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"judged_by": "held-out images"}})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.9, "judged_by": "cross-validation"}})
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")

    assert "Accuracy 75.0% 90.0% – Mean F1 70.0% 70.0% –" in shown
    assert "F1 of Dog 80.0% 80.0% –" in shown
    assert "They were evaluated in different ways, so changes aren’t shown." in shown


@pytest.mark.parametrize(("count", "order"), [(25, [3, 7, 24]), (300, [24, 7, 3])])
def test_of_many_choices_those_that_changed_most_come_first(
    client: Client, script: Script, count: int, order: list[int]
) -> None:
    def figures(changed: dict[int, float]) -> dict[str, Any]:
        f1 = dict.fromkeys(range(count), 0.5) | changed
        shares = {"precision": 0.5, "recall": 0.5}
        classes = {f"choice {n}": {**shares, "f1": f1[n], "images": 4 * (n > 0)} for n in range(count)}
        return FIGURES | {"per_class": classes}

    script.set(output={"figures": figures({})})
    first = client.train()
    script.set(output={"figures": figures({0: 1.0, 3: 0.6, 7: 0.3, 24: 0.9})})
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")
    changed = re.findall(r"F1 of choice (\d+) 50.0% (?!50.0%)", shown)
    assert [int(number) for number in changed] == order
    assert "F1 of choice 0 – –" in shown


def test_a_class_without_images_to_judge_it_by_has_no_f1(client: Client, script: Script) -> None:
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 0}
    script.set(output={"figures": FIGURES | {"per_class": FIGURES["per_class"] | {"Dog": nothing}}})  # type: ignore[operator]
    first = client.train()
    script.set(output={"figures": FIGURES})
    second = client.train()

    assert "F1 of Dog – 80.0% –" in words(client, f"{HERE}/versions/{second}?with={first}")


def test_an_accuracy_is_shown_with_its_interval(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"accuracy_low": 0.301, "accuracy_high": 0.954}})
    name = client.train()

    for path in ("/", HERE, f"{HERE}/versions", f"{HERE}/versions/{name}"):
        assert "75.0% (95% interval: 30% to 95%)" in words(client, path), path


def test_accuracy_says_how_many_labels_came_after_it(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    first = client.train()
    script.set(output={"figures": FIGURES | {"labels_since": 12}})
    name = client.train()

    for path in ("/", HERE, f"{HERE}/versions", f"{HERE}/versions/{name}"):
        assert "75.0% measured before the last 12 labels were added" in words(client, path), path
    shown = words(client, f"{HERE}/versions/{name}?with={first}")
    assert (
        "At least one of them has been trained on more labels since its evaluation, so changes aren’t shown." in shown
    )
    listed = words(client, f"{HERE}/versions")
    assert "evaluated differently" not in listed
    script.set(output={"figures": FIGURES | {"labels_since": 1}})
    client.train()
    assert "75.0% measured before the last label was added" in words(client, HERE)


def test_page_says_who_has_looked_at_the_labels(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "sources": {"person": 150, "group": 20, "unseen": 350}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        shown = words(client, path)
        assert "150 labeled one by one, 20 labeled in groups, 350 accepted without review" in shown, path
    script.set(output={"figures": FIGURES, "sources": {"person": 150, "group": 0, "unseen": 0}})
    client.train()
    assert "one by one" not in words(client), "as usual"


def submitted(origin: str, day: str, seconds: float | None) -> dict[str, Any]:
    """An annotation that began with a prediction, or with none if its origin is manual."""
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "origin": origin}
    return {
        "result": [region | {"value": {"choices": ["Cat"]}}],
        "created_at": f"{day}T10:00:00Z",
        "lead_time": seconds,
        "parent_prediction": None if origin == "manual" else 5,
    }


def test_page_shows_predictions_left_unchanged_and_the_time_they_saved(client: Client) -> None:
    scratch = [submitted("manual", "2026-11-25", 12.0)] * 5
    predicted = [
        submitted("prediction", "2026-11-27", 2.0),
        *[submitted("prediction", "2026-11-26", 2.0)] * 8,
        *[submitted("prediction-changed", "2026-11-26", 2.0)] * 3,
        *[submitted("prediction", "2026-11-26", None)] * 4,
    ]
    assert 'id="history"' not in page(client)

    client.train(PROJECT, *scratch, *predicted)

    shown = words(client)
    assert "People submitted 9 of 12 predictions unchanged (75%)." in shown
    assert (
        "Labeling an image took 2.0 s with a prediction and 12.0 s without (medians), "
        "so predictions saved about 2 minutes." in shown
    )
    assert "4 images were labeled without being opened in Label Studio." in shown
    assert "2026-11-27 1 100% of 1 &lt; 1 min 0 0 2026-11-26 15 73% of 11 2 min 0 4 2026-11-25 5 – – 0 0" in shown, (
        "by the same medians"
    )
    assert client.post("/versions", {"project": PROJECT})["details"][0]["labeling_history"]["days"][1]["unchanged"] == 8


def version_file(client: Client, name: str) -> Path:
    return client.backend.projects.folder(PROJECT) / "versions" / name / "version.json"


def test_curves_of_a_version_are_shown_with_those_of_another_one(client: Client, script: Script) -> None:
    script.set(epochs=[{"loss": 0.9}, {"loss": 0.5, "accuracy": 0.75}])
    first = client.train()
    script.set(epochs=[{"loss": 0.8}, {"loss": 0.25, "accuracy": 0.5}])
    second = client.train()

    alone = page(client, f"{HERE}/versions/{second}")
    assert "epoch 2: 0.25" in alone
    assert 'class="key"' not in alone
    shown = page(client, f"{HERE}/versions/{second}?with={first}")
    assert shown.count("v2, epoch 2: 0.25") == shown.count("v1, epoch 2: 0.5") == 1
    assert shown.count("v2, epoch 2: 50%") == shown.count("v1, epoch 2: 75%") == 1
    compared = words(client, f"{HERE}/versions/{second}?with={first}")
    assert "by epoch: v2 , v1" in compared
    assert "Epoch Loss v2 Loss v1 Accuracy v2 Accuracy v1 1 0.800 0.900 – – 2 0.250 0.500 50.0% 75.0%" in compared
    assert "Values by epoch Epoch Loss Accuracy 1 0.800 – 2 0.250 50.0%" in words(client, f"{HERE}/versions/{second}")


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([{"phase": "all layers", "epoch": 1, "loss": 0.5}], "v1 was trained differently (all layers)"),
        ([], "v1 has no curves, so it isn’t shown here."),
        ([{"phase": "training", "epoch": 1, "loss": float("inf")}], "by epoch"),
        ([{"phase": [], "epoch": 1, "loss": {}}], "v1 has no curves"),
        ([{"epoch": "one"}, 5], "v1 has no curves"),
    ],
)
def test_curves_that_are_not_alike_are_not_laid_over_each_other(
    client: Client, script: Script, epochs: list[Any], said: str
) -> None:
    script.set(epochs=[{"loss": 0.9}, {"loss": 0.5}])
    first, second = client.train(), client.train()
    record = json.loads(version_file(client, first).read_text())
    assert [one["loss"] for one in record["epochs"]] == [0.9, 0.5]
    version_file(client, first).write_text(json.dumps(record | {"epochs": epochs}))

    shown = words(client, f"{HERE}/versions/{second}?with={first}")
    assert said in shown
    assert "v1, epoch" not in shown


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"days": 3},
        {"days": [{"day": 3}]},
        {"days": [{"unchanged": 1}]},
        {"days": [{"day": "2026-11-27", "unchanged": 2, "scratch": -2}]},
        {"days": [*[{"day": "2026-11-27"}] * 14, {"day": "2026-11-26", "unchanged": 200}][::-1]},
        {
            "days": [{"day": "2026-11-27", "unchanged": 200}],
            "seconds_with_prediction": 1,
            "seconds_from_scratch": float("inf"),
        },
        {
            "days": [{"day": "2026-11-27", "unchanged": 200}],
            "seconds_with_prediction": float("-inf"),
            "seconds_from_scratch": 1,
        },
    ],
)
def test_odd_history_of_a_version_shows_none(client: Client, history: dict[str, Any]) -> None:
    name = client.train()
    file = version_file(client, name)
    record = json.loads(file.read_text())
    assert record["labeling_history"]["days"] == []
    record["labeling_history"] = history
    file.write_text(json.dumps(record))

    assert 'id="history"' not in page(client)


def test_accuracy_on_ground_truths_is_shown_next_to_the_other(client: Client, script: Script) -> None:
    truth = {"images": 30, "accuracy": 0.7, "accuracy_low": 0.521, "accuracy_high": 0.833}
    script.set(output={"figures": FIGURES | {"ground_truth": truth}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert "Accuracy on ground truth 70.0% (95% interval: 52% to 83%) 30 ground-truth images" in words(
            client, path
        ), path
    script.set(output={"figures": FIGURES | {"ground_truth": {"images": "many"}}})
    client.train()
    assert "Accuracy on ground truth" not in words(client)


def test_accuracy_is_that_on_the_random_sample_and_the_other_is_next_to_it(client: Client, script: Script) -> None:
    sample = {"judged_by": "cross-validation on a random sample", "images": 30, "groups": 30, "accuracy": 0.7}
    labeled = {"images": 100, "groups": 99, "accuracy": 0.5, "accuracy_low": 0.402, "accuracy_high": 0.598}
    script.set(output={"figures": FIGURES | sample | {"all_labeled": labeled}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        shown = words(client, path)
        assert "Accuracy 70.0% 30 images drawn at random from the whole project, cross-validated" in shown, path
        assert "Accuracy on all labeled images 50.0% (95% interval: 40% to 60%) 100 images; most of them" in shown, path


def test_near_duplicates_are_said_to_count_once(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"judged_by": "cross-validation", "groups": 3}})
    client.train()

    assert "4 images, cross-validated; 3 if near-duplicates count as one" in words(client)


def test_chart_has_only_accuracies_that_can_be_compared(client: Client, script: Script) -> None:
    for number, figures in enumerate([{}, {"groups": 4}, {"groups": 4}]):
        script.set(output={"figures": FIGURES | {"judged_by": "cross-validation"} | figures})
        client.train()
        text = page(client, f"{HERE}/versions")
        assert ('id="accuracy-chart"' in text) is (number == 2)

    assert "1 older version was evaluated differently and can’t be compared." in words(client, f"{HERE}/versions")


def test_choices_without_labels_are_named(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3}})
    client.train()

    assert "Choices without labels: Dog . The model can’t predict them yet." in words(client)


def test_more_mistakes_are_shown_on_demand(client: Client, script: Script) -> None:
    mistake = {"digest": "", "label": ["Cat"], "predicted": ["Dog"], "confidence": 0.9, "learned": False}
    mistakes = [mistake | {"name": str(number)} for number in range(2 * review.SHOWN + 1)]
    script.set(output={"figures": FIGURES}, mistakes=mistakes)
    name = client.train()

    for path, tiles, kept in (
        (f"{HERE}/look", "other", "?predicted=Dog&sort=newest"),
        (f"{HERE}/versions/{name}", "mistake", f"?label=Cat&with={name}"),
    ):
        address, seen = path + kept, []
        while address:
            text = page(client, address)
            seen.append(len(re.findall(rf'id="{tiles}-\d+"', text)))
            found = re.search(rf'href="([^"]*)#{tiles}-(\d+)">Show more</a>', text)
            assert (f"The first {seen[-1]} of {len(mistakes)} are shown." in text) is (found is not None)
            if found:
                assert int(found[2]) == seen[-1] + 1
            address = path + unescape(found[1]) if found else ""
            assert not address or address.startswith(path + kept)
        assert seen == [review.SHOWN, 2 * review.SHOWN, len(mistakes)]


@pytest.mark.parametrize(("asked", "shown"), [("-1", 60), ("0", 60), ("many", 60), ("9" * 5000, 60), ("99999", 61)])
def test_number_of_images_in_the_address_may_be_anything(
    client: Client, script: Script, asked: str, shown: int
) -> None:
    mistake = {"digest": "", "label": ["Cat"], "predicted": ["Dog"], "confidence": 0.9, "learned": False}
    script.set(output={"figures": FIGURES}, mistakes=[mistake | {"name": str(number)} for number in range(61)])
    client.train()

    assert len(re.findall(r'id="other-\d+"', page(client, f"{HERE}/look?shown={asked}"))) == shown


def words_of_error(client: Client, path: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page(client, path, 404)).split())


def test_what_is_not_there_is_said_as_a_page_or_as_json(client: Client) -> None:
    assert "project 99 is not connected" in words_of_error(client, "/projects/99")
    assert "not connected" in client.get("/projects/99", 404)["error"]


@pytest.mark.parametrize(
    "output",
    [
        {"figures": {"f1": 0.5}},
        {"figures": {"accuracy": "high", "confusion": [[1, 2], [3]], "per_class": {"Cat": 1}}},
        {"figures": FIGURES | {"confusion": [[1]], "calibration": "good"}},
        {"figures": "good"},
        {"figures": FIGURES | {"forecast": 0.9}},
        {"figures": FIGURES | {"forecast": FORECAST | {"expected": []}}},
        {"figures": FIGURES | {"forecast": FORECAST | {"labels": 0, "curve": [], "now": 7}}},
        {"labels": ["Cat"]},
        {"labels": "Cat"},
        {"labels": {"Cat": "many"}, "mistakes": 7, "summary": 1},
        {"figures": None, "labels": None, "mistakes": None},
    ],
)
def test_page_bears_what_another_model_says_of_itself(client: Client, script: Script, output: Any) -> None:
    script.set(output=output)
    name = client.train()

    for path in (
        "/",
        HERE,
        f"{HERE}/versions",
        f"{HERE}/versions/{name}",
        f"{HERE}/look",
        f"{HERE}/try",
        f"{HERE}/groups",
    ):
        page(client, path)
    assert client.post("/versions", {})["versions"] == [name]


# --- look -----------------------------------------------------------------------


def test_predicted_tasks_are_shown_least_sure_first_until_annotated(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[result("Cat", 0.9), result("Dog", 0.4), []])
    client.predict({"image": "/data/upload/7/0a1b2c3d-cat.png"}, {"image": "http://x/dog.png?token=secret"}, {})

    assert eventually(lambda: "dog.png" in words(client, f"{HERE}/look"))
    shown = words(client, f"{HERE}/look")
    assert shown.index("Dog 40% dog.png") < shown.index("Cat 90% cat.png")
    assert "secret" not in page(client, f"{HERE}/look")

    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 2}})
    assert eventually(lambda: "dog.png" not in words(client, f"{HERE}/look"))
    client.post("/webhook", {"action": "TASKS_DELETED", "tasks": [{"id": 1}]})
    assert eventually(lambda: "None yet. Tasks appear here" in words(client, f"{HERE}/look"))


def result(choice: str, score: float) -> dict[str, Any]:
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    return {"result": [region], "score": score}


def test_a_click_opens_the_task_in_label_studio_and_nothing_else(serve: Serve, script: Script) -> None:
    with serve(label_studio_url="http://studio.example:8080") as client:
        client.setup()
        client.backend.recent.note(PROJECT, [Sighting(5, "", ("Cat",), 0.5)])
        assert eventually(
            lambda: 'href="http://studio.example:8080/projects/7/data?task=5"' in page(client, f"{HERE}/look")
        )
        hostile = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "javascript:alert(1)", "access_token": "x"}
        client.post("/setup", hostile)

        assert "javascript:" not in page(client, f"{HERE}/look")


def test_pictures_are_reencoded_and_only_for_cached_images(client: Client, script: Script) -> None:
    folder = client.backend.settings.cache_dir / "media" / "contents"
    page(client, f"{HERE}/look")  # makes the folder
    digest = "cd" * 32
    (folder / digest).write_bytes(b"<script>alert(1)</script>")
    path = f"{HERE}/images/{digest}.jpg"
    assert eventually(lambda: client.http.get(path).status_code == 200)

    answer = client.http.get(path)

    large = client.http.get(path.replace("images", "pictures"))
    assert (answer.data, large.data) == (b"thumbnail of 25 bytes", b"picture of 25 bytes")
    for one in (answer, large):
        assert one.mimetype == "image/jpeg"
        assert one.headers["X-Content-Type-Options"] == "nosniff"
    for unknown in ("ef" * 32, "..%2f..%2fsecret", "x" * 64):
        assert client.http.get(f"{HERE}/images/{unknown}.jpg").status_code == 404
        assert client.http.get(f"{HERE}/pictures/{unknown}.jpg").status_code == 404


# --- what comes from outside ------------------------------------------------------


def test_nothing_that_others_named_becomes_html(client: Client, script: Script) -> None:
    described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": EVIL, "label_config": EVIL}
    script.set(fit_raises=EVIL)
    client.ended(client.submit_training())
    per_class = {EVIL: {"precision": 1, "recall": 1, "f1": 1, "images": 1}}
    mistake = {"name": EVIL, "digest": EVIL, "label": [EVIL], "predicted": [EVIL], "confidence": 1, "learned": False}
    output = {
        "labels": {EVIL: 1},
        "warning": EVIL,
        "summary": EVIL,
        "figures": FIGURES | {"per_class": per_class, "confusion": [[1]]},
    }
    script.set(output=output, mistakes=[mistake])
    client.train()
    script.set(output=output | {"held_back": EVIL})
    second = client.ended(client.submit_training()).result["versions"][0]
    client.backend.recent.note(PROJECT, [Sighting(5, f"http://x/{EVIL}", (EVIL,), 0.5), Sighting(6, EVIL, why=EVIL)])
    client.backend.recent.note(PROJECT, [Sighting(7, "http://[", (EVIL,), 0.5)])  # which is no URL at all
    client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})
    assert eventually(lambda: "alert(1)" in words(client, f"{HERE}/look"))

    for path in (
        "/",
        "/problems",
        HERE,
        f"{HERE}/versions",
        f"{HERE}/versions/{second}",
        f"{HERE}/look",
        f"{HERE}/try",
        f"{HERE}/groups",
    ):
        tags = Tags(page(client, path)).found
        assert [attrs for tag, attrs in tags if tag == "script" and set(attrs) != {"type", "src"}] == []
        assert [attrs for _, attrs in tags if {"onerror", "style"} & set(attrs)] == []
        assert {str(attrs["src"]).partition("?")[0] for tag, attrs in tags if tag == "img"} <= {"/static/icon.svg"}
        assert "alert(1)" in words(client, path)


def test_the_policy_allows_neither_inline_scripts_nor_other_sites(client: Client) -> None:
    policy = client.http.get(HERE, headers=HTML).headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_cannot_press_the_buttons(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.http.post("/api/problems/check", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", "/problems", HERE, f"{HERE}/images/{'0' * 64}.jpg"])
def test_under_a_name_anyone_may_own_people_read_only_what_to_set(client: Client, path: str) -> None:
    client.backend.projects.remember(PROJECT, title="Pets")

    response = client.http.get(path, headers={**HTML, "Host": "<i>.a_b.example:9090"})

    assert (response.status_code, response.mimetype) == (403, "text/html")
    assert "set BASIC_AUTH_USER and BASIC_AUTH_PASS" in response.text
    assert "&lt;i&gt;.a_b.example" in response.text
    assert "Pets" not in response.text
    assert "script" not in response.text, "it would ask again and again, and say that nobody answers"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


# --- what it costs ----------------------------------------------------------------


def tag_of(client: Client, path: str) -> str:
    return str(client.http.get(path, headers=HTML).headers["ETag"])


@pytest.mark.parametrize(
    "path", ["/", HERE, f"{HERE}/versions", f"{HERE}/look", f"{HERE}/try", f"{HERE}/groups", "/problems"]
)
def test_a_page_that_has_not_changed_is_not_made_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))
    tag = tag_of(client, path)

    answer = client.http.get(path, headers=HTML | {"If-None-Match": tag})

    assert (answer.status_code, answer.data) == (304, b"")


def test_a_page_is_made_again_after_an_upgrade(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise browsers would run the new release's scripts on a page of the old one."""
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setattr(etag, "PAGES", tmp_path)
    template = tmp_path / "templates" / "page.html"
    template.parent.mkdir()

    def tag() -> str:
        with serve() as client:
            assert eventually(lambda: client.backend.serving.ready and not client.backend.monitor.asking)
            return tag_of(client, "/problems")

    template.write_text("old")
    before = tag()
    assert tag() == before
    template.write_text("new")
    assert tag() != before


def test_a_page_changes_with_what_it_shows(client: Client, script: Script) -> None:
    tags = [tag_of(client, HERE)]
    client.train()
    tags.append(tag_of(client, HERE))
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    tags.append(tag_of(client, HERE))
    client.setup("8.1795181751")
    assert len(set(tags)) == 3
    assert tag_of(client, "/") != tag_of(client, HERE)


def test_of_two_changes_at_once_the_second_shows(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 10**15)  # the moment lasts, however slow this machine is
    client.train()
    assert tag_of(client, HERE) != tag_of(client, HERE), "a moment after a change no tag is trusted"


# --- problems ---------------------------------------------------------------------


def test_problems_name_what_is_missing(serve: Serve, label_studio: FakeLabelStudio) -> None:
    with serve() as client:
        client.setup(config="<View/>")
        described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": "Pets"}
        client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))

        assert codes(client) == ["no-token", "labeling-config", "label-studio-unknown"]
        shown = words(client, "/problems")
        assert "Pets : The labeling config has no &lt;Image" in shown
        assert "your avatar → Account &amp; Settings → Personal Access Token" in shown

    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup(config=LABEL_CONFIG)
        assert eventually(lambda: client.backend.monitor.finding(PROJECT) and codes(client) == [])
        assert "No problems." in words(client, "/problems")


def codes(client: Client) -> list[str]:
    return [problem["code"] for problem in client.get("/problems")["troubles"]]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"backends": [], "webhooks": []}, "not-connected"),
        ({"backends": [{"url": "http://127.0.0.1:9090", "state": "ER", "error_message": "no luck"}]}, "disconnected"),
        ({"webhooks": []}, "webhook-missing"),
        ({"pat": "another"}, "token"),
    ],
)
def test_what_label_studio_says_is_looked_at_again_until_it_is_fixed(
    serve: Serve, label_studio: FakeLabelStudio, change: dict[str, Any], found: str
) -> None:
    before = {name: getattr(label_studio, name) for name in change}
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT) and codes(client) == [])
        for name, value in change.items():
            setattr(label_studio, name, value)
        if found == "token":
            label_studio.access_tokens.clear()
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [found])
        assert client.get("/health")["problems"] == [str(client.backend.summary.problems()[0])]

        for name, value in before.items():
            setattr(label_studio, name, value)
        if found == "token":
            return  # the kept access token is the old one's
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [])


def test_missing_token_is_one_problem_unless_setups_token_is_enough(
    serve: Serve, label_studio: FakeLabelStudio
) -> None:
    with serve() as client:
        handed_over = {"hostname": label_studio.url, "access_token": label_studio.legacy}
        client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG, **handed_over})
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert codes(client) == ["no-token"]
        command = f"<code>LABEL_STUDIO_URL={label_studio.url} LABEL_STUDIO_API_KEY=&lt;the token&gt;</code>"
        assert command in page(client, "/problems")

        label_studio.legacy_enabled = True
        client.post("/api/problems/check", status=202)
        assert eventually(lambda: codes(client) == [])


def test_page_says_while_label_studio_is_asked(
    serve: Serve, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))
        assert 'data-busy="no"' in page(client, "/problems")
        answers = threading.Event()

        def slowly(*asked: Any) -> Any:
            answers.wait(60)
            return read_connection(*asked)

        monkeypatch.setattr("my_backend.diagnostics.monitor.read_connection", slowly)
        tag = tag_of(client, "/problems")
        client.post("/api/problems/check", status=202)

        shown = page(client, "/problems")
        assert 'data-busy="asking"' in shown
        assert "Checking…" in shown
        assert tag_of(client, "/problems") != tag
        answers.set()
        assert eventually(lambda: 'data-busy="no"' in page(client, "/problems"))


def test_webhook_needs_the_password_where_there_is_one(serve: Serve, label_studio: FakeLabelStudio) -> None:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    with serve(basic_auth_user="u", basic_auth_pass="p", **given) as client:
        client.http.post("/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}, auth=("u", "p"))
        assert eventually(lambda: client.backend.monitor.finding(PROJECT))

        assert [problem.code for problem in client.backend.summary.problems()] == ["webhook-credentials"]


def test_images_that_failed_are_named_until_they_are_predicted(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[[], result("Cat", 0.5)], failed={"0": "task 1: no image"})
    client.predict({"image": "a"}, {"image": "b"})

    def images() -> list[str]:
        return [
            d
            for problem in client.get("/problems")["troubles"]
            for d in problem["details"]
            if problem["code"] == "images"
        ]

    assert eventually(lambda: images() == ["task 1: no image"])
    assert "1 image has no prediction" in words(client, "/problems")
    script.set(results=[result("Cat", 0.5)])
    client.predict({"image": "a"})
    assert eventually(lambda: images() == [])


def test_what_was_seen_survives_a_restart_and_goes_with_the_project(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        client.backend.recent.note(PROJECT, [Sighting(1, "u", why="broken")])
    with serve() as client:
        assert "images" in codes(client)
        file = client.backend.projects.folder(PROJECT) / "recent.json"
        assert file.stat().st_mode & 0o777 == 0o600
        client.post("/delete", {"project": PROJECT})
        assert eventually(lambda: "images" not in codes(client))
        assert not file.exists()


def test_health_answers_from_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.train()
    # The follower's visit reads files, in a thread that no error may end.
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the disk was asked")

    for method in ("open", "read_text", "stat", "glob"):
        monkeypatch.setattr(f"pathlib.Path.{method}", fail)
    answer = client.http.get("/health")
    monkeypatch.undo()

    assert answer.status_code == 200
    assert client.backend.projects.get(PROJECT)


def test_a_project_whose_folder_is_gone_breaks_no_page(client: Client) -> None:
    client.train()
    folder: Path = client.backend.projects.folder(PROJECT)
    shutil.rmtree(folder / "versions")

    page(client, "/")
    page(client)
