"""Records what a real Label Studio sends to a backend, for tests/test_protocol.py.

    python -m tests.data.record_protocol

writes tests/data/label_studio_<version>.jsonl: a request a line. For a new Label Studio, renew
testing/label-studio-requirements.txt first, and remove the old recording afterwards.
"""

import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from testing.digits import write_digits
from testing.label_studio import LabelStudio

FOLDER = Path(__file__).parent
KEPT_HEADERS = ("User-Agent", "Content-Type", "Authorization")
TOKENS = ("token", "access_token")  # fields of a project and of /setup
USER, PASSWORD = "user", "password"

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="digit" toName="image" choice="single">
    <Choice value="0"/><Choice value="1" alias="one"/><Choice value="2"/>
  </Choices>
</View>"""


class Recorder:
    """A backend that answers as ours does, and notes what it is asked."""

    def __init__(self) -> None:
        self.phase = ""
        self.requests: list[dict[str, Any]] = []

    def note(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.requests.append(
            {
                "phase": self.phase,
                "method": method,
                "path": parts.path,
                "query": dict(parse_qsl(parts.query)),
                "headers": {name: headers[name] for name in KEPT_HEADERS if name in headers},
                "body": json.loads(body) if body else None,
            }
        )

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/predict":
            value = {"choices": ["one"]}
            region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": value}
            result = {"result": [region], "score": 0.5, "model_version": "v1"}
            return 200, {"results": [result] * len(body["tasks"]), "model_version": "v1"}
        answers = {
            "/health": (200, {"status": "UP"}),
            "/setup": (200, {"model_version": "v1"}),
            "/versions": (200, {"versions": ["v1"]}),
            "/webhook": (201, {"job": "1", "job_id": "1"}),
        }
        return answers[path]


@contextmanager
def recording() -> Iterator[tuple[Recorder, str]]:
    """The recorder, and the URL at which it is served."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            recorder.note(self.command, self.path, dict(self.headers), body)
            status, answer = recorder.answer(urlsplit(self.path).path, json.loads(body or b"null"))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _handle  # noqa: N815

        def log_message(self, *args: object) -> None:
            """Nothing is to be printed."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield recorder, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def drive(label_studio: LabelStudio, recorder: Recorder, url: str, images: list[Path]) -> None:
    """What people do in Label Studio, one thing after the other."""

    def phase(name: str) -> None:
        recorder.phase = name
        print(f"{len(recorder.requests):4} requests; {name}", flush=True)

    def ask(method: str, path: str, **options: Any) -> Any:
        return label_studio.request(method, path, **options)

    def act(action: str, tasks: list[int]) -> None:
        selected = {"selectedItems": {"all": False, "included": tasks}}
        ask("POST", f"/api/dm/actions?id={action}&project={project}", json=selected)

    project = label_studio.create_project("Digits", LABEL_CONFIG)
    phase("connect")
    backend = label_studio.connect(project, url)
    phase("a page is loaded")
    ask("GET", "/api/ml", params={"project": project})
    phase("versions")
    ask("GET", f"/api/ml/{backend}/versions")
    phase("import tasks")
    tasks = label_studio.upload_images(project, images)
    phase("import annotated tasks")
    result = [{"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": ["0"]}}]
    data = {"image": "https://example.com/ünï code.png"}
    label_studio.import_tasks(project, [{"data": data, "annotations": [{"result": result}]}])
    phase("label stream")
    ask("POST", "/api/dm/actions", params={"id": "next_task", "project": project}, json={})
    phase("retrieve predictions")
    label_studio.retrieve_predictions(project, tasks[:3])
    phase("open a task")
    ask("GET", f"/api/tasks/{tasks[3]}", params={"project": project})
    phase("send test request")
    ask("POST", f"/api/ml/{backend}/predict/test", params={"random": "true"})
    phase("annotate")
    annotation = label_studio.annotate(tasks[0], "one", from_name="digit", lead_time=1.5)
    phase("update")
    label_studio.update_annotation(annotation, "2", from_name="digit")
    phase("submit with nothing ticked")
    label_studio.annotate(tasks[4], [], from_name="digit")
    phase("skip")
    label_studio.annotate(tasks[1], [], was_cancelled=True)
    phase("draft")
    ask("POST", f"/api/tasks/{tasks[2]}/drafts", params={"project": project}, json={"result": result, "lead_time": 1})
    phase("annotations from predictions")
    act("predictions_to_annotations", [tasks[2]])
    phase("delete an annotation")
    label_studio.delete_annotation(annotation)
    phase("start training")
    label_studio.start_training(backend)
    phase("training on every annotation")
    card = {"project": project, "url": url, "title": "backend"}
    label_studio.update_project(project, min_annotations_to_start_training=1)
    label_studio.annotate(tasks[0], "0", from_name="digit")
    label_studio.update_project(project, min_annotations_to_start_training=0)
    phase("interactive")
    ask("PATCH", f"/api/ml/{backend}", json={**card, "is_interactive": True})
    context = {"result": result}
    ask("POST", f"/api/ml/{backend}/interactive-annotating", json={"task": tasks[0], "context": context})
    phase("change the project")
    label_studio.update_project(
        project, title="Few digits", label_config=LABEL_CONFIG.replace('<Choice value="2"/>', "")
    )
    phase("delete tasks")
    act("delete_tasks", tasks[3:])
    phase("remove the backend")
    ask("DELETE", f"/api/ml/{backend}")
    phase("annotate after the removal")
    label_studio.annotate(tasks[1], "0", from_name="digit")

    project = label_studio.create_project("Guarded digits", LABEL_CONFIG)
    tasks = label_studio.upload_images(project, images[:2])
    phase("basic auth: connect")
    backend = label_studio.connect(project, url, basic_auth=(USER, PASSWORD))
    phase("basic auth: versions")
    ask("GET", f"/api/ml/{backend}/versions")
    phase("basic auth: retrieve predictions")
    label_studio.retrieve_predictions(project, tasks)
    phase("basic auth: start training")
    label_studio.start_training(backend)
    phase("basic auth: annotate")
    label_studio.annotate(tasks[0], "0", from_name="digit")


def without_secrets(request: Any) -> str:
    """A line of JSON without tokens, and without ports, which differ from one recording to the next."""
    line = json.dumps(_without_tokens(request), ensure_ascii=False)
    return re.sub(r"http://(localhost|127\.0\.0\.1):\d+", "http://localhost:8080", line)


def _without_tokens(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    if isinstance(value, dict):
        return {key: "TOKEN" if key in TOKENS and item else _without_tokens(item) for key, item in value.items()}
    return value


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        recording() as (recorder, url),
        LabelStudio(Path(folder) / "label-studio") as label_studio,
    ):
        images = [path for path, _ in write_digits(Path(folder) / "images", 5)]
        drive(label_studio, recorder, url, images)
        version = label_studio.request("GET", "/api/version").json()["release"]
        lines = [without_secrets(request) for request in recorder.requests]
    path = FOLDER / f"label_studio_{version}.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} requests in {path}")


if __name__ == "__main__":
    main()
