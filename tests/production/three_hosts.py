"""Three hosts in network namespaces that share a Redis and a MODEL_DIR: cut off one by one, and healed.

For a process under `unshare` (see test_three_hosts.py): everything that it starts, and every namespace, ends with it.
Prints what came of a scenario as JSON.

    office (the bridge: people, Label Studio) ─┬─ one: Redis, server
                                               ├─ two: server, worker
                                               └─ three: worker
"""

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from my_backend.commands.production import redis_server
from my_backend.jobs.record import Job
from my_backend.jobs.store import JobStore
from my_backend.jobs.worker import LEASE_SECONDS
from my_backend.projects.versions import Versions
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, TOKEN, AnnotatedProjects, described, uid
from testing.process import Process, answers
from testing.production import Server
from testing.waiting import eventually
from tests.production.memorizing_model import FOLDER, MODEL_CLASS, Script, learned

ROOT = Path(__file__).resolve().parents[2]
OFFICE = "10.9.0.1"
PROJECT = 1
START_SECONDS = 120.0
DEADLINE = 120.0  # for what a cut delays
HANG_SECONDS = 400.0  # after which a scenario ends with the stacks of its threads
PAUSE_SECONDS = 0.02  # between two predictions of a client
LEASE_AND_MORE = LEASE_SECONDS + 3  # in which Redis forgets whose training it is

Json = dict[str, Any]


def run(*command: str) -> None:
    subprocess.run(command, check=True)


class Host:
    """A network, a host name and mounts of its own; its cable leads to the office's bridge."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.address = name, f"10.9.0.{number}"
        self._cable = f"to-{name}"
        ready = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", f"hostname {name}; echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
        )
        assert ready.stdout and ready.stdout.readline()
        self._pid = str(ready.pid)
        run("ip", "link", "add", "name", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._pid)
        run("ip", "link", "set", self._cable, "master", "bridge", "up")
        for command in (f"ip address add {self.address}/24 dev eth0", "ip link set eth0 up", "ip link set lo up"):
            run(*self.inside(), *command.split())

    def inside(self) -> list[str]:
        """What begins a command that is to run on this host."""
        return [shutil.which("nsenter") or "", "--target", self._pid, "--net", "--uts", "--mount", "--"]

    def cut(self) -> None:
        run("ip", "link", "set", self._cable, "down")

    def heal(self) -> None:
        run("ip", "link", "set", self._cable, "up")

    def processes(self) -> list[psutil.Process]:
        """What runs on it."""
        own = _network(int(self._pid))
        return [one for one in psutil.process_iter() if one.pid != int(self._pid) and _network(one.pid) == own]


def _network(pid: int) -> int:
    with suppress(FileNotFoundError, PermissionError):
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    return 0


class Client:
    """Asks a server for predictions without pause; counts the answers, and keeps what failed."""

    def __init__(self, server: Server) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._server = server
        self._may_ask, self._idle, self._over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._may_ask.set()
        self._thread.start()

    def pause(self) -> None:
        """Returns when no request is on its way."""
        self._idle.clear()
        self._may_ask.clear()
        assert self._idle.wait(DEADLINE)

    def go_on(self) -> None:
        self._may_ask.set()

    def stop(self) -> None:
        self._over.set()
        self._may_ask.set()
        self._thread.join()

    def _run(self) -> None:
        body = {"project": uid(PROJECT), "tasks": [{"id": 1, "data": {"image": "/x.png"}}]}
        while not self._over.wait(PAUSE_SECONDS):
            if not self._may_ask.is_set():
                self._idle.set()
                self._may_ask.wait()
                continue
            try:
                (result,) = self._server.post("/predict", body)["results"]
                assert result["result"][0]["value"]["choices"] == ["Cat"]
                self.answered += 1
            except Exception as error:
                self.failed.append(f"{self._server.url}: {error!r}")


@dataclass(frozen=True)
class Lost:
    """The processes of a host that was lost, and which of them ran a job."""

    stopped: list[psutil.Process]
    job: psutil.Process

    def come_back(self) -> None:
        for process in self.stopped:
            process.resume()

    def has_ended_its_job(self) -> bool:
        try:
            return not self.job.is_running() or self.job.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:  # it went in between
            return True


class ThreeHosts:
    """All is up, a first version is live, and clients ask both servers for predictions."""

    def __init__(self, folder: Path, label_studio: AnnotatedProjects, script: Script) -> None:
        self.folder, self.label_studio, self.script = folder, label_studio, script
        self.one, self.two, self.three = (Host(name, 11 + n) for n, name in enumerate(("one", "two", "three")))
        self.model_dir = folder / "models"
        self.store = JobStore(self.model_dir / "projects")
        self.versions = Versions(self.model_dir / "projects" / uid(PROJECT))
        self.redis_url = f"redis://{self.one.address}:6379/0"
        self.servers: dict[str, Server] = {}
        self.clients: dict[str, Client] = {}
        self._cut_off: set[str] = set()
        self._sent = 0

    def start(self) -> None:
        self._start_redis()
        self.servers = {host.name: self._begin_server(host) for host in (self.one, self.two)}
        self.start_worker(self.three)
        for server in self.servers.values():
            server.process.wait_until(lambda url=server.url: answers(f"{url}/ready"), START_SECONDS)  # type: ignore[misc]
        self.servers["one"].post("/setup", {"project": uid(PROJECT), "schema": LABEL_CONFIG})
        self.annotate(1, "Cat")
        self.wait_until_settled()
        self.clients = {name: Client(server) for name, server in self.servers.items()}

    def _start(self, host: Host, name: str, *command: str, **settings: str) -> Process:
        environment = os.environ | {
            "REDIS_URL": self.redis_url,
            "MODEL_DIR": str(self.model_dir),
            "CACHE_DIR": str(self.folder / f"cache-of-{host.name}"),
            "LABEL_STUDIO_URL": self.label_studio.url,
            "LABEL_STUDIO_API_KEY": TOKEN,
            "RETRAIN_AFTER_ANNOTATIONS": "1",
            "MODEL_CLASS": MODEL_CLASS,
            FOLDER: str(self.script.folder),
            "PYTHONPATH": str(ROOT),
            **settings,
        }
        log = self.folder / f"{name}-{host.name}.log"
        return Process([*host.inside(), *command], env=environment, folder=self.folder, log=log)

    def _start_redis(self) -> None:
        options = ["--bind", self.one.address, "--protected-mode", "no", "--dir", str(self.folder), "--save", ""]
        process = self._start(self.one, "redis", redis_server(), *options, "--appendonly", "yes")
        with redis.Redis.from_url(self.redis_url) as client:
            process.wait_until(lambda: _answers(client), START_SECONDS)

    def _begin_server(self, host: Host) -> Server:
        command = (sys.executable, "-m", "my_backend", "uwsgi")
        process = self._start(host, "server", *command, HOST=host.address, PORT="9090")
        return Server(process, f"http://{host.address}:9090")

    def start_worker(self, host: Host) -> None:
        """Returns once it listens."""
        process = self._start(host, "worker", sys.executable, "-m", "my_backend", "worker")
        with redis.Redis.from_url(self.redis_url) as client:

            def listens() -> bool:
                found = (client.hget(key, "hostname") for key in client.smembers("rq:workers"))
                return host.name.encode() in found

            process.wait_until(listens, START_SECONDS)

    # What people do

    def annotate(self, task: int, choice: str) -> None:
        """Label Studio sends the event once to a server that it reaches."""
        event = self.label_studio.annotate(PROJECT, task, choice)
        reachable = [server for name, server in self.servers.items() if name not in self._cut_off]
        self._sent += 1
        reachable[self._sent % len(reachable)].post("/webhook", event)

    def start_training(self, server: str = "one") -> str:
        """The job's id."""
        event = {"action": "START_TRAINING", "project": described(PROJECT)}
        return str(self.servers[server].post("/webhook", event)["job"])

    @contextmanager
    def cut_off(self, host: Host) -> Iterator[None]:
        """Within the block nothing reaches the host."""
        client = self.clients.get(host.name)
        if client:
            client.pause()
        self._cut_off.add(host.name)
        host.cut()
        yield
        host.heal()
        if client:
            self.wait_for(lambda: answers(f"{self.servers[host.name].url}/ready"))
            client.go_on()
        self._cut_off.discard(host.name)

    def lose_disk(self, host: Host) -> "Lost":
        """Stops everything on a host, as a file server does that does not answer, which forgets its locks, too."""
        while True:
            stopped = host.processes()
            for process in stopped:
                process.suspend()
            held = {path: pid for path, pid in self._locks().items() if pid in {one.pid for one in stopped}}
            if all(path.name in (".full", ".head") for path in held):
                break
            for process in stopped:  # it held a lock of milliseconds, for which others wait already
                process.resume()
            time.sleep(0.01)
        ((path, pid),) = held.items()
        path.unlink()
        return Lost(stopped, psutil.Process(pid))

    def _locks(self) -> dict[Path, int]:
        """The files under MODEL_DIR that a process locked for itself alone, and which process did."""
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        alone = [fields for fields in lines if fields[1] == "FLOCK" and fields[3] == "WRITE"]
        pids = {int(fields[5].rpartition(":")[2]): int(fields[4]) for fields in alone}
        found = {}
        for folder, _, names in os.walk(self.model_dir):
            for path in (Path(folder, name) for name in names if name.startswith(".")):
                with suppress(FileNotFoundError):  # the other hosts are at work
                    found[path] = path.stat().st_ino
        return {path: pids[inode] for path, inode in found.items() if inode in pids}

    # What came of it

    def jobs(self) -> list[Job]:
        return self.store.of_project(uid(PROJECT))

    def wait_for(self, condition: Callable[[], object]) -> None:
        assert eventually(condition, DEADLINE), (self.jobs(), self.logs())

    def is_learned(self) -> bool:
        """Whether the live version knows all that is annotated."""
        return learned(self.versions.live()) == self.label_studio.annotated(PROJECT)

    def named(self) -> dict[str, str]:
        """The live version as each server has it."""
        return {name: str(server.get("/is_training")["model_version"]) for name, server in self.servers.items()}

    def wait_until_settled(self) -> None:
        self.wait_for(lambda: self.is_learned() and not any(job.unfinished for job in self.jobs()))
        self.wait_for(lambda: set(self.named().values()) == {self.versions.live_name()})

    def newest(self) -> int:
        """The newest version's number."""
        return int(self.versions.names()[-1].partition("-")[0].removeprefix("v"))

    def predictions_so_far(self) -> dict[str, int]:
        return {name: client.answered for name, client in self.clients.items()}

    def wait_for_predictions(self, *names: str) -> None:
        """That some are answered from here on."""
        before = self.predictions_so_far()
        self.wait_for(lambda: all(self.clients[name].answered > before[name] + 20 for name in names))

    def report(self) -> Json:
        for client in self.clients.values():
            client.stop()
        return {
            "predicted": self.predictions_so_far(),
            "failed": [failure for client in self.clients.values() for failure in client.failed],
            "learned": learned(self.versions.live()),
            "annotated": self.label_studio.annotated(PROJECT),
            "live": self.versions.live_name(),
            "named": self.named(),
            "newest": self.newest(),
            "jobs": [
                {"id": job.id, "kind": job.kind, "status": job.status, "attempts": job.attempts, **job.result}
                for job in self.jobs()
            ],
        }

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def train_on_three(hosts: ThreeHosts) -> str:
    """A training of all layers, held in the middle on host three; a worker of host two could take others."""
    hosts.script.order(epochs=4, epoch_seconds=0.1)
    hosts.script.hold("full")
    job = hosts.start_training()
    hosts.wait_for(lambda: hosts.store.get(job).progress.get("epoch") == 3)
    hosts.start_worker(hosts.two)
    return job


def worker_cut_off(hosts: ThreeHosts) -> Json:
    """Its disk is still there: the training goes on, and is nobody else's."""
    job = train_on_three(hosts)
    with hosts.cut_off(hosts.three):
        hosts.annotate(2, "Dog")
        hosts.wait_for(hosts.is_learned)
        time.sleep(LEASE_AND_MORE)  # what is over is the time in which Redis hears of the training
        hosts.script.release("full")
        hosts.wait_for(lambda: hosts.store.get(job).status == "finished")
        hosts.annotate(3, "Cat")
        hosts.wait_for(hosts.is_learned)
        hosts.wait_for_predictions("one", "two")
    hosts.wait_until_settled()
    return hosts.report()


def worker_lost_and_back_early(hosts: ThreeHosts) -> Json:
    """Its disk is gone, too, as that of a file server; another worker is at its training when it is back."""
    job = train_on_three(hosts)
    with hosts.cut_off(hosts.three):
        lost = hosts.lose_disk(hosts.three)
        hosts.wait_for(lambda: len(hosts.script.events("begin", kind="full")) == 2)
        hosts.annotate(2, "Dog")
    lost.come_back()
    hosts.wait_for(lost.has_ended_its_job)
    taken_over = hosts.store.get(job)
    hosts.script.release("full")
    hosts.wait_until_settled()
    return hosts.report() | {"when back": {"status": taken_over.status, "attempts": taken_over.attempts}}


def worker_lost_and_back_late(hosts: ThreeHosts) -> Json:
    """As before; what it was at has been learned without it, and more, when it is back."""
    job = train_on_three(hosts)
    with hosts.cut_off(hosts.three):
        lost = hosts.lose_disk(hosts.three)
        hosts.wait_for(lambda: len(hosts.script.events("begin", kind="full")) == 2)
        hosts.script.release("full")
        hosts.wait_for(lambda: hosts.store.get(job).status == "finished")
        hosts.annotate(2, "Dog")
        hosts.wait_until_settled()
    live = hosts.versions.live_name()
    lost.come_back()
    hosts.wait_for(lost.has_ended_its_job)
    hosts.wait_until_settled()
    return hosts.report() | {"before it was back": live}


def server_cut_off(hosts: ThreeHosts) -> Json:
    """In the middle of corrections, one after the other."""
    before = hosts.newest()
    with hosts.cut_off(hosts.two):
        for number in range(5):
            hosts.annotate(2, "Cat" if number % 2 else "Dog")
            hosts.wait_for(hosts.is_learned)
        hosts.wait_for_predictions("one")
    hosts.wait_for_predictions("one", "two")
    hosts.wait_until_settled()
    return hosts.report() | {"when cut off": before}


def redis_cut_off(hosts: ThreeHosts) -> Json:
    job = train_on_three(hosts)
    with hosts.cut_off(hosts.one):
        hosts.wait_for(lambda: "Redis is unreachable" in str(hosts.servers["two"].get("/health")["problems"]))
        hosts.annotate(2, "Dog")
        hosts.script.release("full")
        hosts.wait_for(lambda: hosts.store.get(job).status == "finished")
        hosts.annotate(3, "Dog")
        hosts.wait_for_predictions("two")
    hosts.wait_for_predictions("one", "two")
    hosts.wait_until_settled()
    return hosts.report()


SCENARIOS: dict[str, Callable[[ThreeHosts], Json]] = {
    scenario.__name__: scenario
    for scenario in (
        server_cut_off,
        worker_cut_off,
        worker_lost_and_back_early,
        worker_lost_and_back_late,
        redis_cut_off,
    )
}


def main() -> None:
    folder, scenario = Path(sys.argv[1]), sys.argv[2]
    faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)

    for command in ("link set lo up", "link add name bridge type bridge", "link set bridge up"):
        run("ip", *command.split())
    run("ip", "address", "add", f"{OFFICE}/24", "dev", "bridge")
    (folder / "script").mkdir()
    with AnnotatedProjects().running(OFFICE) as label_studio:
        hosts = ThreeHosts(folder, label_studio, Script(folder / "script"))
        try:
            hosts.start()
            print(json.dumps(SCENARIOS[scenario](hosts)), flush=True)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # with everything else: it is the first process of its namespace


if __name__ == "__main__":
    main()
