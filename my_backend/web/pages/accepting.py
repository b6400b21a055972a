"""What the Accept page shows: the sample to label, what would be accepted, the audit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from my_backend.labeling.auto_accept.acceptor import State
from my_backend.labeling.auto_accept.checks import Checks
from my_backend.labeling.auto_accept.records import Automatic, PlannedImage
from my_backend.labeling.auto_accept.sample import Sample, accepted_by_choice, examples
from my_backend.labeling.runs.records import Run
from my_backend.web.pages.review import Tile, task_link

SHOWN = 12  # tasks of the sample that come next


@dataclass(frozen=True)
class AcceptView:
    """A project's newest plan, ready to be shown; `status` is "none" if there is none, or "unreadable"."""

    automatic: Automatic
    status: str = "none"
    error: str = ""
    percent: int = 0
    version: str = ""
    tasks: int = 0
    collected: int = 0
    plan: str = ""  # its id
    sample: Sample | None = None
    coming: list[Tile] = field(default_factory=list)
    again: list[Tile] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # accepted tasks by choice
    examples: list[Tile] = field(default_factory=list)
    run: Run | None = None
    checks: Checks | None = None
    to_check: Tile | None = None
    task_to_check: int = 0

    @property
    def accepts(self) -> int:
        """How many tasks would be accepted now."""
        return sum(self.labels.values())


def accept_view(automatic: Automatic, state: State | None, counts: Mapping[str, int], tasks_url: str) -> AcceptView:
    """`counts` tells how many of the project's images are read; `tasks_url` is the project's page in Label Studio."""
    if state is None:
        return AcceptView(automatic)
    percent = round(100 * state.acceptance.alpha)
    if state.predictions is None:
        return AcceptView(
            automatic,
            state.status,
            state.error,
            percent,
            tasks=counts["tasks"],
            collected=counts["collected"],
            plan=state.acceptance.id,
            run=state.run,
        )
    predictions, sample, checks = state.predictions, state.sample, state.checks

    def tiles(images: Iterable[PlannedImage]) -> list[Tile]:
        return [_tile(image, tasks_url) for image in images]

    def of_tasks(tasks: Iterable[int]) -> list[Tile]:
        return tiles(predictions.by_task[task] for task in tasks)

    check = checks.next[0] if checks and checks.next else None
    return AcceptView(
        automatic,
        state.status,
        state.error,
        percent,
        predictions.version.partition("-")[0],
        tasks=len(predictions.images),
        plan=state.acceptance.id,
        sample=sample,
        # Without a link: Label Studio would show the model's prediction.
        coming=[replace(tile, link="") for tile in of_tasks(sample.open[:SHOWN])] if sample else [],
        again=of_tasks(sample.again[:SHOWN]) if sample else [],
        labels=dict(accepted_by_choice(predictions, sample).most_common()) if sample else {},
        examples=tiles(examples(predictions, sample)) if sample else [],
        run=state.run,
        checks=checks,
        to_check=tiles([check])[0] if check else None,
        task_to_check=check.task if check else 0,
    )


def _tile(image: PlannedImage, tasks_url: str) -> Tile:
    link = task_link(tasks_url, str(image.task))
    return Tile(f"task {image.task}", image.digest, link, (image.answer,), image.probability)
