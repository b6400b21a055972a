"""What broken clients, odd files and attackers send while the site works; nobody else may notice any of it."""

import base64
import gzip
import itertools
import json
import os
import random
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]  # has no stubs here
import redis
import requests
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.soak.odd_images import OddImage, odd_images
from benchmarks.soak.probes import Span
from benchmarks.soak.site import Site
from benchmarks.soak.workload import PREDICT_TIMEOUT, every
from testing.digits import LABEL_CONFIG
from testing.process import answers

READY_SECONDS = 60  # for the copied project's version to be loaded
WORKERS = 3
ATTACK_SECONDS = 1.0  # between two of a worker
SLOW_CLIENTS = 40
TRICKLE_SECONDS = 0.5
RAW_TIMEOUT = 60
TOO_LONG = 31_000  # characters of a path; with the other headers just within uWSGI's limit
CUT_OFF = 0  # stands for the status of an answer that did not come
TOKEN = "a-hostile-token-"
DAMAGED, BELIEVED, LOOP = "990000001.1", "990000002.1", "990000003.1"  # projects next to the one that is used

Json = dict[str, Any]

PATTERNS = ("a-", "a=", "a.", "http://a:a@", "Bearer ", "token=", "%61", "-----BEGIN ", "eyJ", "ab/", "::", "'", "\\")
DAMAGES: Mapping[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "no UTF-8": lambda content: b"\xff\xfe" + content[::-1],
    "a list": lambda content: b"[1]",
    "nested deeply": lambda content: b"[" * 100_000,
    "other values inside": lambda content: content.replace(b": ", b': "?", "odd": '),
}
JOB = {"id": "full-20260101T000000-000000", "project": DAMAGED, "kind": "full", "cause": "x", "status": "finished"}
JOB |= {"history": [{"odd": 1}, {"phase": [], "epoch": {}}], "progress": {"epoch": "x", "epochs": []}}  # type: ignore[dict-item]


@dataclass
class Hostilities:
    """What was sent, and which answers were wrong."""

    answers: dict[str, Counter[int]] = field(default_factory=dict)  # by kind, how often each status came
    wrong: list[str] = field(default_factory=list)
    reconnected: int = 0  # slow clients that were cut off
    slowest: dict[str, float] = field(default_factory=dict)  # by kind, seconds

    def report(self) -> Json:
        return {
            "kept": not self.wrong,
            "sent": {
                kind: {str(status or "cut off"): count for status, count in sorted(said.items())}
                for kind, said in sorted(self.answers.items())
            },
            "slowest answers, s": {kind: round(seconds, 1) for kind, seconds in sorted(self.slowest.items())},
            "slow clients cut off": self.reconnected,
            "wrong": self.wrong,
        }


@dataclass(frozen=True)
class Attack:
    """`send` returns the statuses of its answers, of which each must be in `expected`."""

    kind: str
    send: Callable[[], list[int]]
    expected: frozenset[int]


class Attackers:
    """Send each kind again and again, in an order that changes, and look at the answers."""

    def __init__(self, site: Site, project: str, folder: Path) -> None:
        self._site, self._project, self._folder = site, project, folder
        self._projects = site.model_dir / "projects"
        where = urlsplit(site.url)
        self._address = (str(where.hostname), int(where.port or 80))
        self._random = random.Random(0)  # noqa: S311  no secret
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._restore: Callable[[], None] = lambda: None
        self._asked: list[str] = []
        self._trap = ""
        self._ran = folder / "ran"
        self._noted = Hostilities()
        self.sent: list[Span] = []

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Makes what they need: odd images, a project to damage, and a server that nobody may be led to."""
        self._folder.mkdir(parents=True)
        self._images = odd_images()
        shutil.copytree(self._projects / self._project, self._projects / DAMAGED, copy_function=os.link)
        (self._projects / LOOP).symlink_to(LOOP)
        self._server = self._site.processes()["server"]
        self._site.process.wait_until(self._is_ready, READY_SECONDS)
        asked = self._asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.command} {self.path[:200]} {self.headers.get('Authorization')}")
                self.send_error(404)

            do_POST = do_PATCH = do_GET  # noqa: N815  their names are http.server's

            def log_message(self, *args: object) -> None:
                """Nothing is to be printed."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            self._trap = f"http://127.0.0.1:{server.server_port}"
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def _is_ready(self) -> bool:
        """Whether the copied project is known and served."""
        versions = requests.post(f"{self._site.url}/versions", json={"project": DAMAGED}, timeout=RAW_TIMEOUT)
        return versions.ok and answers(f"{self._site.url}/ready")

    def works(self) -> list[Callable[[threading.Event], None]]:
        """For a thread each, until the event is set."""
        return [*[self._attack] * WORKERS, self._send_slowly]

    # --- one after the other --------------------------------------------------

    def _attack(self, ended: threading.Event) -> None:
        def forever() -> Iterator[Attack]:
            attacks = self._attacks()
            while True:
                with self._lock:
                    self._random.shuffle(attacks)
                yield from list(attacks)

        attacks = forever()
        every(ATTACK_SECONDS, lambda: self._run(next(attacks)), ended)

    def _attacks(self) -> list[Attack]:
        refused = frozenset({400, 413, 503})
        images = [
            Attack(image.name, lambda image=image: self._predict_image(image), frozenset({200}))
            for image in self._images
        ]
        return [
            *images,
            Attack("uploaded image", self._upload_image, frozenset({200, 400, 413, 422, 503})),
            Attack("long path", self._long_path, frozenset({404, 400, 413, 414, CUT_OFF})),
            Attack("long texts in a body", self._long_texts, frozenset({200, 400, 404, 413})),
            Attack("token with line ends", self._token_with_line_ends, frozenset({200, 400})),
            Attack("/setup through a proxy", self._setup_through_a_proxy, frozenset({200, 400, 403})),
            Attack("chunked body", self._chunked, frozenset({411, 400})),
            Attack("body cut short", self._cut_short, frozenset({400, 408, CUT_OFF})),
            Attack("compressed body", self._compressed, frozenset({415})),
            Attack("huge labeling config", self._huge_config, refused | {200, 507}),
            Attack("many small values", self._small_values, refused),
            Attack("damaged file of another project", self._damage, frozenset({200, 404, 500})),  # it tells of a 500
            Attack("foreign job in Redis", self._foreign_job, frozenset({200, CUT_OFF})),
            Attack("files gone from the cache", self._clean_cache, frozenset({200})),
        ]

    def _run(self, attack: Attack) -> None:
        begun = time.monotonic()
        try:
            statuses = attack.send()
        except (requests.RequestException, OSError) as error:
            statuses = [CUT_OFF]
            said = f": {error!r}"
        else:
            said = ""
        ended = time.monotonic()
        self.sent.append(Span(attack.kind, begun, ended))
        seconds = ended - begun
        with self._lock:
            self._noted.answers.setdefault(attack.kind, Counter()).update(statuses)
            self._noted.slowest[attack.kind] = max(seconds, self._noted.slowest.get(attack.kind, 0.0))
        for status in statuses:
            if status not in attack.expected:
                self._wrong(f"{attack.kind}: {status or 'cut off'} after {seconds:.1f} s{said}")

    def _wrong(self, what: str) -> None:
        self._noted.wrong.append(what[:500])

    def report(self) -> Json:
        """To be asked for when the run has ended."""
        self._check_at_the_end()
        return {**self._noted.report(), "peak of the server, MB": _peak_megabytes(self._server)}

    def _check_at_the_end(self) -> None:
        """What must not have happened at any time."""
        if not self._server.is_running():
            self._wrong("the server's process ended")
        if self._ran.exists():
            self._wrong("a worker ran code that a job in Redis named")
        if led := [request for request in self._asked if "forwarded" in request]:
            self._wrong(f"/setup through a proxy was believed: {led[0]}")
        if not (self._projects / self._project / "live").exists():
            self._wrong("the project is gone")

    # --- images ---------------------------------------------------------------

    def _new(self, image: OddImage) -> bytes:
        return image.data + f"number {next(self._numbers)}".encode()

    def _predict_image(self, image: OddImage) -> list[int]:
        url = f"data:{image.mime};base64,{base64.b64encode(self._new(image)).decode()}"
        answer = self._post("/predict", self._predict_body([{"id": 2_000_000_000, "data": {"image": url}}]))
        if answer.status_code == 200 and image.predicted is not None:
            [result] = answer.json()["results"]
            if bool(result) is not image.predicted:
                self._wrong(f"{image.name}: answered with {str(result)[:200]}")
        return [answer.status_code]

    def _upload_image(self) -> list[int]:
        image = self._random.choice(self._images)
        files = {"image": (image.name, self._new(image))}
        url = f"{self._site.url}/api/models/predict"
        answer = requests.post(url, data={"project": self._project}, files=files, timeout=PREDICT_TIMEOUT)
        return [answer.status_code]

    def _predict_body(self, tasks: list[Json]) -> Json:
        return {"project": self._project, "label_config": LABEL_CONFIG, "tasks": tasks}

    # --- texts ----------------------------------------------------------------

    def _long_path(self) -> list[int]:
        pattern = self._random.choice(PATTERNS)
        text = (pattern * TOO_LONG)[: self._random.choice((8000, TOO_LONG))].replace(" ", "+")
        return [self._raw(f"GET /{text} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())]

    def _long_texts(self) -> list[int]:
        text = (self._random.choice(PATTERNS) * TOO_LONG)[:TOO_LONG]
        bodies = {"/predict": self._predict_body([{"id": 1, "data": {"image": text}}])}
        bodies |= {"/job_status": {"job": text}, "/versions": {"project": text}}
        return [self._post(path, body).status_code for path, body in bodies.items()]

    def _token_with_line_ends(self) -> list[int]:
        token = TOKEN + str(next(self._numbers)) + self._random.choice(("\r\n", "\n ", f"\r\nX-More: {TOKEN}\n"))
        body = {"project": BELIEVED, "schema": LABEL_CONFIG, "hostname": self._trap, "access_token": token}
        statuses = [self._post("/setup", body).status_code]
        for path in ("/health", "/problems", "/"):
            answer = self._get(path)
            statuses.append(answer.status_code)
            if TOKEN in answer.text:
                self._wrong(f"{path} shows a token")
        return statuses

    def _setup_through_a_proxy(self) -> list[int]:
        body = {"project": self._project, "schema": LABEL_CONFIG, "access_token": "a-token-of-anybody"}
        body["hostname"] = f"{self._trap}/forwarded"
        header = self._random.choice(("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"))
        value = {"Forwarded": "for=203.0.113.7", "Via": "1.1 proxy"}.get(header, "203.0.113.7")
        return [self._post("/setup", body, {header: value}).status_code]

    # --- bodies ---------------------------------------------------------------

    def _chunked(self) -> list[int]:
        body = json.dumps({"project": 990_000_009}).encode()
        head = b"POST /delete HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        return [self._raw(head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")]

    def _cut_short(self) -> list[int]:
        path = self._random.choice(("/predict", "/webhook", "/delete", "/train"))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n"
        return [self._raw(head.encode() + b'{"project": "', end=True)]

    def _compressed(self) -> list[int]:
        data = gzip.compress(json.dumps({"project": self._project}).encode())
        headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
        return [requests.post(f"{self._site.url}/delete", data=data, headers=headers, timeout=RAW_TIMEOUT).status_code]

    def _huge_config(self) -> list[int]:
        choices = "".join(f'<Choice value="{number}"/>' for number in range(self._random.choice((5000, 250_000))))
        nested = "<View>" * 20_000 + "</View>" * 20_000
        image = '<Image name="img" value="$image"/>'
        flat = f'<View>{image}<Choices name="c" toName="img">{choices}</Choices></View>'
        config = self._random.choice((flat, nested))
        statuses = [self._post("/validate", {"config": config}).status_code]
        statuses.append(self._post("/setup", {"project": BELIEVED, "schema": config}).status_code)
        return statuses

    def _small_values(self) -> list[int]:
        """6 MB, which take a hundred times as much as Python's objects."""
        path, name = self._random.choice((("/predict", "tasks"), ("/train", "annotations"), ("/webhook", "tasks")))
        text = '{"data":{}},' * 500_000
        body = f'{{"project": "{self._project}", "action": "TASKS_CREATED", "{name}": [{text[:-1]}]}}'
        headers = {"Content-Type": "application/json"}
        url = self._site.url + path
        return [requests.post(url, data=body, headers=headers, timeout=PREDICT_TIMEOUT).status_code]

    # --- files and Redis ------------------------------------------------------

    def _damage(self) -> list[int]:
        """Another file of the copied project each time; the one before is as it was."""
        with self._lock:
            self._restore()
            folder = self._projects / DAMAGED
            (folder / "jobs" / f"{JOB['id']}.json").write_text(json.dumps(JOB), encoding="utf-8")
            found = [path for path in folder.rglob("*") if path.suffix in (".json", "") and path.is_file()]
            path = self._random.choice([path for path in found if path.stat().st_size])
            content = path.read_bytes()
            place = self._random.choice(("a folder", "a link to itself", "a pipe", "missing", *DAMAGES))

            def restore() -> None:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
                path.write_bytes(content)

            self._restore = restore
            path.unlink()  # it may have another name, in the project that is used
            if place == "a folder":
                path.mkdir()
            elif place == "a link to itself":
                path.symlink_to(path.name)
            elif place == "a pipe":
                os.mkfifo(path)
            elif place != "missing":
                path.write_bytes(DAMAGES[place](content))
        statuses = []
        paths = ("/", "/problems", "/metrics", f"/projects/{DAMAGED}", f"/projects/{DAMAGED}/versions")
        for page in paths:
            status = self._get(page).status_code
            statuses.append(status)
            if status >= 500:
                self._wrong(f"{page} with {path.relative_to(folder)} {place}: {status}")
        return statuses

    def _foreign_job(self) -> list[int]:
        command = ["touch", str(self._ran)]
        with redis.Redis(unix_socket_path=str(self._site.model_dir / "production" / "redis.sock")) as connection:
            try:
                for kind in ("head", "full"):
                    queue = Queue(f"default-{kind}", connection=connection, serializer=JSONSerializer)
                    job_id = f"{kind}-20260101T000000-{next(self._numbers):06x}"
                    queue.enqueue_call("subprocess.check_output", args=(command,), job_id=job_id)
                    queue.enqueue_call("my_backend.jobs.worker.perform", args=({"a": 1},))
                    connection.hset("rq:job:bogus", "data", b"\x80\x04not json")
                    connection.rpush(f"rq:queue:default-{kind}", "bogus")
            except redis.RedisError:
                return [CUT_OFF]  # it is restarted just now
        return [200]

    def _clean_cache(self) -> list[int]:
        """As a job that tidies up temporary files does."""
        media = self._site.folder / "cache" / "media"
        found = [path for name in ("contents", "urls") for path in (media / name).rglob("*") if path.is_file()]
        for path in self._random.sample(found, min(10, len(found))):
            path.unlink(missing_ok=True)
        return [self._get("/health").status_code]

    # --- slow clients ---------------------------------------------------------

    def _send_slowly(self, ended: threading.Event) -> None:
        """40 connections that never come to an end; one that is cut off is opened again."""
        begun = itertools.cycle([
            b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{",
            b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n{",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/html\r\n\r\n",  # and reads nothing
        ])  # fmt: skip
        clients: list[socket.socket] = []
        try:
            while not ended.wait(TRICKLE_SECONDS):
                for client in list(clients):
                    try:
                        client.sendall(b"a")
                    except OSError:
                        client.close()
                        clients.remove(client)
                        self._noted.reconnected += 1
                with suppress(OSError):
                    while len(clients) < SLOW_CLIENTS:
                        client = socket.create_connection(self._address, timeout=RAW_TIMEOUT)
                        clients.append(client)
                        client.sendall(next(begun))
        finally:
            for client in clients:
                client.close()

    # --- how it is sent -------------------------------------------------------

    def _get(self, path: str) -> requests.Response:
        return requests.get(self._site.url + path, headers={"Accept": "text/html"}, timeout=RAW_TIMEOUT)

    def _post(self, path: str, body: Json, headers: Mapping[str, str] | None = None) -> requests.Response:
        return requests.post(self._site.url + path, json=body, headers=headers, timeout=PREDICT_TIMEOUT)

    def _raw(self, data: bytes, *, end: bool = False) -> int:
        """The status of the answer to these bytes; `end` says that no more come."""
        with socket.create_connection(self._address, timeout=RAW_TIMEOUT) as client:
            try:
                client.sendall(data)
                if end:
                    client.shutdown(socket.SHUT_WR)
                first = client.makefile("rb").readline(1000)
            except ConnectionError:
                return CUT_OFF
        return int(first.split()[1]) if first.startswith(b"HTTP/") else CUT_OFF


def _peak_megabytes(process: psutil.Process) -> int:
    """Resident, at any time; 0 if the process has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM:"))
    return 0
