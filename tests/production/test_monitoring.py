"""deploy/prometheus and deploy/grafana: their rules and queries, on a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from my_backend.jobs.store import JobStore
from testing.process import Process, ServerError, answers, direct_session, free_port
from testing.production import Production, Server
from testing.waiting import eventually
from tests.production.conftest import ROOT
from tests.production.digit_images import DigitImages

PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "image-classifier.json").read_text("utf-8"))
RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
DOCS = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")
PASSWORD = "of the scrape"

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="there is no Prometheus here: apt-get install --no-install-recommends prometheus",
)

Json = dict[str, Any]


def queries() -> dict[str, str]:
    """Of the dashboard's panels, by the panel's title and the query's letter, as Grafana sends them."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }
    found |= {note["name"]: note["expr"] for note in DASHBOARD["annotations"]["list"]}
    for variable, value in {"job": "ml-backend", "instance": ".*", "project": ".*", "__rate_interval": "1m"}.items():
        found = {name: query.replace(f"${variable}", value) for name, query in found.items()}
    return found


def metrics_in(query: str) -> set[str]:
    names = set(re.findall(r"\b(?:ml_backend|process)_\w+", query))
    return {re.sub("_(bucket|count|sum)$", "", name) if "_seconds_" in name else name for name in names}


def test_every_panel_has_its_place_and_its_words() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 25
    taken = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(taken)) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels if panel["type"] != "row")
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"]))) - {"__rate_interval"}
    assert used == {variable["name"] for variable in DASHBOARD["templating"]["list"]}


def test_every_alert_is_in_the_docs_and_is_tried() -> None:
    names = [rule["alert"] for rule in RULES]
    documented = re.findall(r"^\| `(MLBackend\w+)` \|", DOCS, re.MULTILINE)
    tried = (Path(__file__).parent / "alerts_test.yml").read_text("utf-8")
    assert documented == names
    assert [name for name in names if f"alertname: {name}}}" not in tried or f'alertname="{name}"' not in tried] == []
    assert all(rule["labels"]["severity"] in ("critical", "warning", "info") for rule in RULES)
    assert all(rule["annotations"].keys() == {"summary", "description"} for rule in RULES)


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", PROMETHEUS / "prometheus.yml"),
        ("check", "rules", PROMETHEUS / "alerts.yml"),
        ("test", "rules", Path(__file__).parent / "alerts_test.yml"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_is_content(command: tuple[object, ...]) -> None:
    done = subprocess.run(["promtool", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrape_has_every_metric_that_is_asked_for(classifier: Production) -> None:
    server = classifier.server()

    families = text_string_to_metric_families(server.request("GET", "/metrics").text)
    there = {family.name + "_total" * (family.type == "counter") for family in families}

    asked = [*queries().values(), *(rule["expr"] for rule in RULES)]
    named = {name for query in asked for name in metrics_in(query)}
    assert len(named) > 25
    assert named - there == set()
    documented = set(re.findall(r"^\| `(ml_backend_\w+)` \|", DOCS, re.MULTILINE))
    assert documented == {name for name in there if name.startswith("ml_backend_")}


class Prometheus:
    """With the project's own configuration and rules."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = direct_session()

    def query(self, query: str) -> list[Json]:
        """What comes of it; fails on one that Prometheus refuses."""
        answer = self._session.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", (query, answer)
        return list(answer["data"]["result"])

    def rules(self) -> list[Json]:
        """With their state and health."""
        answer = self._session.get(f"{self.url}/api/v1/rules", timeout=10).json()
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(folder: Path, server: Server) -> Iterator[Prometheus]:
    """Scrapes the server every second."""
    folder.mkdir()
    shutil.copy(PROMETHEUS / "alerts.yml", folder)
    (folder / "password").write_text(PASSWORD)
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [server.url.removeprefix("http://")]}]
    job["basic_auth"] = {"username": "label-studio", "password_file": "password"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [str(shutil.which("prometheus")), "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with Process(command, env={}, folder=folder, log=folder / "log") as process:
        process.wait_until(lambda: answers(f"http://127.0.0.1:{port}/-/ready"), 60)
        yield Prometheus(f"http://127.0.0.1:{port}")


@needs_prometheus
def test_real_prometheus_scrapes_and_answers_every_query(
    tmp_path: Path, classifier: Production, images: DigitImages
) -> None:
    server, _ = classifier.all([""], BASIC_AUTH_USER="label-studio", BASIC_AUTH_PASS=PASSWORD)
    with prometheus(tmp_path / "prometheus", server) as asked:
        assert eventually(lambda: asked.query("up == 1"))

        with pytest.raises(ServerError, match="404"):
            server.get("/jobs/of-nobody")
        parity = {str(digit): str(digit % 2) for digit in range(10)}  # enough images of each choice for an accuracy
        images.train(server, JobStore(classifier.model_dir / "projects"), **parity)
        images.predict(server)

        unanswered = set(queries()) - {"New versions"}

        def all_answered() -> bool:
            unanswered.difference_update([name for name in unanswered if asked.query(queries()[name])])
            return not unanswered

        assert eventually(all_answered), unanswered
        asked.query(queries()["New versions"])
        assert [rule["name"] for rule in asked.rules() if rule["health"] != "ok"] == []
        firing = {alert["metric"]["alertname"] for alert in asked.query('ALERTS{alertstate="firing"}')}
        assert firing == set(), "nothing is wrong but for what alerts wait"
