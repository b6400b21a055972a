"""Shows where the time goes while new images are predicted in bulk.

    python -m benchmarks.hotspots [--seconds 15]

py-spy looks at the server's threads from outside, a hundred times a second; it may need to be allowed to.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from benchmarks.ours import development, settings
from benchmarks.photographs import served, write_photographs
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.annotated_projects import AnnotatedProjects

AT_ONCE = 50
IMAGES_A_SECOND = 120  # more than can be embedded, so that there are always some left
# The activity of a stack, by a function in it; the first match counts.
PARTS = {
    "the network": "InferenceLane._embed_batch",
    "decoding JPEGs": "open_image",
    "resizing, cropping": "Preprocessing.__call__",
    "storing embeddings": "EmbeddingCache",
    "storing fetched images": "MediaCache.store",
    "fetching images": "Media.fetch",
    "passing work between threads": "lane.py",
}
# Stacks of idle threads end in one of these.
WAITING = ("wait (threading.py", "_worker (concurrent", "select (selectors.py", "wait_for (threading.py")


def record(pid: int, seconds: float, output: Path, predict: Callable[[Callable[[], bool]], None]) -> None:
    """Samples the process while `predict` runs; `predict` gets a function that tells when time is up."""
    py_spy = str(Path(sys.executable).with_name("py-spy"))
    options = ["--function", "--duration", f"{seconds:.0f}", "--format", "raw", "--output", str(output)]
    command = [py_spy, "record", "--pid", str(pid), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as recorder:
        assert recorder.stdout
        said = ""
        while "Sampling" not in said:
            line = recorder.stdout.readline()
            if not line:
                raise SystemExit(said)
            said += line
        predict(lambda: recorder.poll() is not None)


def shares(stacks: str) -> dict[str, float]:
    """Each activity's share of the busy time of all threads; `stacks` has one line per stack: frames and a count."""
    counts: Counter[str] = Counter()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if not any(mark in frames.rpartition(";")[2] for mark in WAITING):
            counts[next((part for part, mark in PARTS.items() if mark in frames), "everything else")] += int(count)
    return {part: count / counts.total() for part, count in counts.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Profiles the server while it predicts new images.")
    parser.add_argument("--seconds", type=float, default=15, help="duration of the profile")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        images, stacks = Path(name) / "images", Path(name) / "stacks"
        unseen = iter(write_photographs(images, int(arguments.seconds * IMAGES_A_SECOND)))
        labeled = write_photographs(images, 40, seed=1)
        with served(images) as url:
            samples = [(f"{url}/{file}", label) for file, label in labeled]
            with (
                AnnotatedProjects(LABEL_CONFIG, samples).running() as studio,
                development(Path(name) / "server", settings(studio.url, url)) as (ours, _),
            ):

                def predict(ended: Callable[[], bool]) -> None:
                    while not ended():
                        some = list(islice(unseen, AT_ONCE))
                        if not some:
                            raise SystemExit("There were too few images: the server was idle in the end.")
                        ours.predict([{"id": 1, "data": {"image": f"{url}/{file}"}} for file, _ in some])

                ours.seconds_until_a_new_version(ours.start_training)
                record(ours.pid, arguments.seconds, stacks, predict)
        for part, share in shares(stacks.read_text(encoding="utf-8")).items():
            print(f"{part:<24}{100 * share:5.1f}%")


if __name__ == "__main__":
    main()
