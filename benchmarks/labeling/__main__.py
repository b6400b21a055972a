"""Counts the actions that label a whole project in groups, and measures how often auto-accept breaks its promise.

    python -m benchmarks.labeling --pictures FOLDER --weights FILE [--task digits …] [--json labeling.json]

docs/project/pool.md explains the method and has the results, docs/project/learning.md how to get the pictures and the
weights. The embeddings are shared with `benchmarks.learning`.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.labeling.guarantee import RUNS, least_sure_first, try_promise
from benchmarks.labeling.simulation import Step, label_in_groups
from benchmarks.learning.embedded import Data, embedded_tasks, options

TASKS = ("digits, random", "themes", "stamps", "fine")  # the settings were chosen on the last two
PROMISED = "digits, random"  # the task with which the promise is tried
PROMISES = ((0.01, 300), (0.02, 150), (0.01, 600), (0.02, 300), (0.05, 150))  # α and the size of the sample
LEARNED = 300  # labels before the sample is drawn
MARKS = (0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1.0)  # shares of a project


def main() -> None:
    parser = options("benchmarks.labeling", __doc__)
    parser.add_argument("--task", action="append", choices=TASKS, help="only these; all by default")
    parser.add_argument("--json", type=Path, default=Path("labeling.json"), help="file for all results")
    told = parser.parse_args()
    torch.set_num_threads(1)  # CPU seconds are measured on one core
    wanted = told.task or TASKS
    results = {}
    print("| task | images | " + " | ".join(f"{share:.0%}" for share in MARKS) + " | groups | CPU s |")
    print("|---|---|" + "---|" * (len(MARKS) + 2))
    promised = None
    for data in embedded_tasks(told):
        if data.name not in wanted:
            continue
        began = time.process_time()
        steps = list(label_in_groups(data))
        seconds = time.process_time() - began
        marks = [str(actions_until(steps, share)) for share in MARKS]
        images = len(data.samples)
        print(f"| {data.name} | {images:,} | {' | '.join(marks)} | {len(steps)} | {seconds:.0f} |", flush=True)
        results[data.name] = {"images": images, "steps": [asdict(step) for step in steps]}
        promised = (data, steps) if data.name == PROMISED else promised
    if promised:
        results["promises"] = list(promises(*promised))
    told.json.write_text(json.dumps(results) + "\n", encoding="utf-8")


def actions_until(steps: list[Step], share: float) -> int:
    """The keys and clicks until this share of the images has a label."""
    wanted = share * sum(len(step.rows) for step in steps)
    labels = actions = 0
    for step in steps:
        if labels >= wanted:
            break
        labels += len(step.rows)
        actions += step.actions
    return actions


def promises(data: Data, steps: list[Step]) -> Iterator[dict[str, object]]:
    """Each promise, after labels in both orders in which the backend offers images."""
    orders = {
        "groups": [row for step in steps for row in step.rows][:LEARNED],
        "least certain first": least_sure_first(data, 20, LEARNED),
    }
    print(
        f"\n| order of the labels | accuracy | α | sample | promise broken in {RUNS} runs | accepted | possible | "
        "more labels needed |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, labeled in orders.items():
        for alpha, sample in PROMISES:
            one = try_promise(data, labeled, alpha, sample)
            print(
                f"| {name} | {one.accuracy:.3f} | {alpha:.0%} | {sample} | {one.broken} | {one.accepted:.1%} | "
                f"{one.allowed:.1%} | {one.more:.0f} |",
                flush=True,
            )
            yield {"order": name, **asdict(one)}


if __name__ == "__main__":
    main()
