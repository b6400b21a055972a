"""Fuzzes the readers of bytes that others write, and replays inputs.

    python -m tests.fuzzing run [--minutes 60] [TARGET …]    so many minutes of processor time for all targets together
    python -m tests.fuzzing replay TARGET [FILE …]           the inputs in these files, or all that are kept
    python -m tests.fuzzing keep [TARGET …]                  adds what earlier runs found, minimized, to the repository

An input that breaks a target is stored in `tests/fuzzing/corpus/`, where `make test` replays it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.fuzzing.limits import within_limits
from tests.fuzzing.target import words_of
from tests.fuzzing.targets import CORPUS, NAMES, kept, load

ROOT = Path(__file__).resolve().parents[2]
GROWN = ROOT / ".fuzzing"  # the inputs that runs on this machine have found; a later run continues from there
HANGS = 60  # seconds after which libFuzzer ends an input that never ends; slower ones are found by `limits`
MOST_MB = 4_000  # of memory for the whole process; single inputs have their own limit
LAST = 40  # lines of the output of a process that found something


@dataclass(frozen=True)
class Result:
    """What a run of a target found: new inputs in the repository's corpus, and libFuzzer's numbers."""

    name: str
    seconds: float
    executions: int
    edges: int
    inputs: int
    found: list[Path]
    output: str

    def row(self) -> str:
        """The result as a row of the table in docs/project/reliability.md."""
        return (
            f"| {self.name} | {self.seconds / 60:.1f} | {self.executions:,} | {self.edges:,} | {self.inputs:,} "
            f"| {len(self.found)} |"
        )


def run(names: list[str], minutes: float) -> bool:
    """Fuzzes one target after the other; returns whether none of them broke."""
    results = []
    for name in names:
        print(f"{name}: {minutes / len(names):.1f} minutes …", flush=True)
        results.append(result := _run(name, 60 * minutes / len(names)))
        for path in result.found:
            print("\n".join(result.output.splitlines()[-LAST:]))
            print(f"{name} broke. Replay it: {_replay_command(name, path)}", flush=True)
    print("\n| target | minutes | executions | edges | inputs | failed |\n|---|---|---|---|---|---|")
    for result in results:
        print(result.row())
    return not any(result.found for result in results)


def _run(name: str, seconds: float) -> Result:
    (CORPUS / name).mkdir(exist_ok=True)
    (GROWN / name).mkdir(parents=True, exist_ok=True)
    before = set(kept(name))
    with _seeded(name) as (seeds, options):
        folders = [GROWN / name, CORPUS / name, seeds]
        found = _guided(name, seconds, [*options, f"-artifact_prefix={CORPUS / name}/", *map(str, folders)])
    new = [path for path in kept(name) if path not in before]
    if found.returncode and not new:
        raise SystemExit(f"{name}: libFuzzer has failed:\n{found.stderr[-3000:]}")
    edges = [int(number) for number in re.findall(r"cov: (\d+)", found.stderr)]
    executions = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)", found.stderr, re.MULTILINE)
    return Result(
        name,
        found.seconds,
        max((int(one or other) for one, other in executions), default=0),
        max(edges, default=0),
        len(list((GROWN / name).iterdir())),
        new,
        found.stdout + found.stderr,
    )


@dataclass(frozen=True)
class _Ended:
    """How a process has ended, and the processor time that it took."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


def _guided(name: str, seconds: float, options: list[str]) -> _Ended:
    if not find_spec("atheris"):
        raise SystemExit("atheris is not installed: it has wheels for Linux on x86-64 and Python 3.11 to 3.13")
    before = os.times()
    command = [sys.executable, "-m", "tests.fuzzing.guided", name, str(seconds), *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    return _Ended(ended.returncode, ended.stdout, ended.stderr, took)


@contextmanager
def _seeded(name: str) -> Iterator[tuple[Path, list[str]]]:
    """A folder with the target's seeds, and libFuzzer's options, among them a file with the target's words."""
    target = load(name)
    with tempfile.TemporaryDirectory() as folder:
        seeds, words = Path(folder, "seeds"), Path(folder, "words")
        seeds.mkdir()
        for number, seed in enumerate(target.seeds()):
            (seeds / str(number)).write_bytes(seed)
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in sorted(words_of(target)))
        words.write_text("".join(f'"{word}"\n' for word in escaped))
        options = [f"-max_len={target.longest}", f"-timeout={HANGS}", f"-rss_limit_mb={MOST_MB}", f"-dict={words}"]
        yield seeds, [*options, "-print_final_stats=1", "-detect_leaks=0"]


def replay(name: str, files: list[Path]) -> None:
    """Gives the inputs to the target, within its limits; raises what they raise."""
    target = load(name)
    with target.open() as read:
        limited = within_limits(target, read)
        for path in files or kept(name):
            begun = time.process_time()
            limited(path.read_bytes())
            print(f"{path}: {time.process_time() - begun:.3f} s")


def keep(names: list[str]) -> None:
    """Adds a small set of inputs to the repository's corpus that reach as many edges as all that were found."""
    for name in names:
        (CORPUS / name).mkdir(exist_ok=True)
        with _seeded(name) as (seeds, options):
            folders = map(str, [CORPUS / name, seeds, GROWN / name])
            ended = _guided(name, 3_600, [*options, "-set_cover_merge=1", "-use_counters=0", *folders])
        assert ended.returncode == 0, ended.stderr[-3_000:]
        print(f"{name}: {len(kept(name))} inputs, {sum(path.stat().st_size for path in kept(name)):,} bytes")


def _replay_command(name: str, path: Path) -> str:
    return f"{sys.executable} -m tests.fuzzing replay {name} {path.relative_to(ROOT)}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.fuzzing", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("run", "keep"):
        commands.add_parser(command).add_argument("targets", nargs="*", metavar="TARGET")
    commands.choices["run"].add_argument("--minutes", type=float, default=60)
    replaying = commands.add_parser("replay")
    replaying.add_argument("target", choices=NAMES)
    replaying.add_argument("files", nargs="*", type=Path)
    given = parser.parse_args()
    if given.command == "replay":
        replay(given.target, given.files)
        return
    if unknown := set(given.targets) - {*NAMES}:
        parser.error(f"there is no target {min(unknown)}: choose from {', '.join(NAMES)}")
    names = given.targets or list(NAMES)
    if given.command == "keep":
        keep(names)
    elif not run(names, given.minutes):
        sys.exit(1)


if __name__ == "__main__":
    main()
