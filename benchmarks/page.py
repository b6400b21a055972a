"""Measures the cost of open pages at rest: the server's CPU time with 50 projects and two browsers.

    python -m benchmarks.page [--projects 50] [--browsers 2] [--seconds 30]

The projects have versions and jobs, and a model class without a network. Before, the same without a browser. It takes a
minute or two and uses loopback only; the Label Studio that is configured counts what it is asked.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from my_backend.jobs.record import new_job
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from testing.digits import LABEL_CONFIG
from testing.process import Process, answers, free_port

VERSIONS, JOBS = 20, 50
ROOT = Path(__file__).resolve().parent.parent
FIGURES = {"accuracy": 0.9, "images": 60, "judged_by": "held-out images", "macro_f1": 0.9, "calibration_error": 0.05}
SETTLE_SECONDS = 8.0
ANSWERS: dict[str, Any] = {
    "/api/projects/": {"title": "digits"},
    "/api/ml/": [{"url": "http://127.0.0.1:9090", "state": "CO"}],
    "/api/webhooks/": [{"url": "http://127.0.0.1:9090/webhook", "is_active": True, "send_for_all_actions": True}],
}


class NoModel:
    """A model class that the server can load at no cost."""

    def __init__(self, **kwargs: Any) -> None:
        """Predicts nothing."""


def make_projects(folder: Path, count: int) -> None:
    projects, store = Projects(folder), JobStore(folder)
    for number in range(1, count + 1):
        uid = f"{number}.1795181751"
        projects.remember(uid, label_config=LABEL_CONFIG, title=f"Project {number}")
        versions = Versions(projects.folder(uid))
        work = projects.folder(uid) / "work"
        work.mkdir()
        for _ in range(VERSIONS):
            output = {"figures": FIGURES, "labels": {str(digit): 30 for digit in range(10)}}
            versions.publish(output, work, cause="annotations changed", choices=tuple("0123456789"))
        for _ in range(JOBS):
            job = new_job(uid, "head", "annotations changed")
            ended = {"started": job.created, "ended": job.created + 1, "status": "finished"}
            store.save(replace(job, **ended), sync="none")  # type: ignore[arg-type]


class Asked(ThreadingHTTPServer):
    """A Label Studio without problems, which counts its requests."""

    def __init__(self) -> None:
        self.count = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.count += 1
                body = json.dumps(next(value for part, value in ANSWERS.items() if part in self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Prints nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def share_of_a_core(process: psutil.Process, seconds: float) -> float:
    """The CPU time of the process and its children, in percent of one core."""
    before, begun = cpu(process), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu(process) - before) / (time.monotonic() - begun)


def cpu(process: psutil.Process) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in [process, *process.children(recursive=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--projects", type=int, default=50)
    parser.add_argument("--browsers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="page-cost-") as name, Asked() as label_studio:
        folder = Path(name)
        make_projects(folder / "models" / "projects", options.projects)
        port = free_port()
        settings = {
            "PORT": str(port),
            "MODEL_DIR": str(folder / "models"),
            "CACHE_DIR": str(folder / "cache"),
            "MODEL_CLASS": "benchmarks.page:NoModel",
            "PYTHONPATH": str(ROOT),
            "LABEL_STUDIO_URL": f"http://127.0.0.1:{label_studio.server_port}",
            "LABEL_STUDIO_API_KEY": "a-legacy-token",
            "RETRAIN_AFTER_ANNOTATIONS": "0",
        }
        command = [sys.executable, "-m", "my_backend", "serve"]
        server = Process(command, env=os.environ | settings, folder=folder, log=folder / "log")
        with server:
            server.wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"), 60)
            time.sleep(SETTLE_SECONDS)
            process = psutil.Process(server.pid)
            alone = share_of_a_core(process, options.seconds)
            with sync_playwright() as playwright:
                browsers = [
                    playwright.chromium.launch(executable_path="/usr/bin/chromium") for _ in range(options.browsers)
                ]
                pages = [browser.new_page() for browser in browsers]
                for page in pages:
                    page.goto(f"http://127.0.0.1:{port}/")
                time.sleep(SETTLE_SECONDS)
                asked = label_studio.count
                watched = share_of_a_core(process, options.seconds)
                print(f"{options.projects} projects, {VERSIONS} versions and {JOBS} jobs each")
                print(f"without a browser: {alone:.1f}% of a core")
                print(f"with {options.browsers} browsers: {watched:.1f}% of a core")
                print(f"requests to Label Studio meanwhile, by the follower: {label_studio.count - asked}")
                for browser in browsers:
                    browser.close()


if __name__ == "__main__":
    main()
