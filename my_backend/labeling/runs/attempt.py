"""One attempt at a labeling run: writes its annotations, or removes them again, a batch at a time.

An attempt keeps no list of what it has done. Label Studio shows it, by the mark in each annotation, so any number of
attempts, by any process, leave one annotation per task.
"""

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from label_studio_format.labeling_config import ImageChoices
from my_backend.errors import LabelStudioDown, LabelStudioError, TokenRefused
from my_backend.labeling.runs.project_tasks import Json, ProjectTasks, TaskState
from my_backend.labeling.runs.records import Labels, Reason, Run

BATCH_TASKS = 100  # Label Studio needs about a second, and people see progress
TRIES = 3  # per batch: a task may be deleted or labeled between two requests

Progress = Callable[[Run], Run]


@dataclass
class _Outcome:
    """What an attempt has found and done so far."""

    done: int = 0
    there: int = 0  # tasks that have the run's annotation and keep it, or haven't lost it yet
    undone: int = 0
    removing: set[int] = field(default_factory=set)
    left_alone: dict[Reason, list[int]] = field(default_factory=lambda: defaultdict(list))

    def of(self, run: Run) -> Run:
        left = {reason: sorted(tasks) for reason, tasks in self.left_alone.items() if tasks}
        written, removing = self.there + self.undone, sorted(self.removing)
        return replace(run, done=self.done, written=written, undone=self.undone, removing=removing, left_alone=left)


def write(run: Run, plan: Sequence[Labels], tag: ImageChoices, tasks: ProjectTasks, progress: Progress) -> Run:
    """Labels all tasks of the plan that nobody has labeled, except withdrawn ones; returns the run with its outcome.

    `progress` is called before each batch, and raises an exception to stop. Raises LabelStudioError.
    """
    plan, withdrawn = _split(plan, set(run.withdrawn))
    outcome = _begun(run)
    for batch in _batches(plan):
        run = progress(outcome.of(run))
        regions = {task: _region(tag, choices) for task, choices in batch.items()}
        _count_written(outcome, batch, _write_batch(tasks, regions))
    tasks.remove_predictions()
    if run.attempts > 1:
        # A request of an earlier attempt may have been in progress in Label Studio when this one began. Without its
        # predictions, it can no longer create anything.
        outcome = _begun(run)
        for batch in _batches(plan):
            run = progress(outcome.of(run))
            _count_written(outcome, batch, _without_surplus(tasks, tasks.look(list(batch))))
        run = _undo(run, outcome, withdrawn, tasks, progress)  # which that attempt may have labeled
    return outcome.of(run)


def undo(run: Run, plan: Sequence[Labels], tasks: ProjectTasks, progress: Progress) -> Run:
    """Removes the run's annotations, or those of withdrawn tasks, except those that someone has changed.

    Otherwise like `write`.
    """
    outcome = _begun(run)
    outcome.there = max(0, run.written - run.undone)
    if run.withdrawn:
        plan, outcome.left_alone = _split(plan, set(run.withdrawn))[1], _left_of_others(run)
    tasks.remove_predictions()  # first, so that an earlier attempt's unfinished requests can't create annotations
    run = _undo(run, outcome, plan, tasks, progress)
    if not run.withdrawn:
        # `written` is too low if an attempt was killed before it counted, and too high if people removed labels.
        outcome.there = len(outcome.left_alone["changed"])
    return outcome.of(run)


def _begun(run: Run) -> _Outcome:
    """The outcome at the beginning of an attempt, with what earlier attempts of the same action have removed."""
    return _Outcome(undone=run.undone, removing=set(run.removing))


def _undo(run: Run, outcome: _Outcome, plan: Sequence[Labels], tasks: ProjectTasks, progress: Progress) -> Run:
    for batch in _batches(plan):
        run = progress(outcome.of(run))
        run, seen = _undo_batch(run, outcome, list(batch), tasks, progress)
        removed = {task for task in outcome.removing & batch.keys() if task not in seen or not seen[task].ours}
        outcome.removing -= batch.keys()
        outcome.undone += len(removed)
        if run.action == "undo":  # otherwise `there` counts only tasks that aren't withdrawn
            outcome.there = max(0, outcome.there - len(removed))
        outcome.done += len(batch)
        outcome.left_alone["changed"] += [task for task, state in seen.items() if state.ours]
        outcome.left_alone["labeled"] += [task for task, state in seen.items() if state.others and not state.ours]
    return run


def _split(plan: Sequence[Labels], withdrawn: Container[int]) -> tuple[list[Labels], list[Labels]]:
    """The plan without the withdrawn tasks, and that of these."""
    return (
        [replace(one, tasks=[task for task in one.tasks if task not in withdrawn]) for one in plan],
        [replace(one, tasks=[task for task in one.tasks if task in withdrawn]) for one in plan],
    )


def _left_of_others(run: Run) -> defaultdict[Reason, list[int]]:
    """The tasks that were left alone, without the withdrawn ones."""
    withdrawn = set(run.withdrawn)
    left = {reason: [task for task in tasks if task not in withdrawn] for reason, tasks in run.left_alone.items()}
    return defaultdict(list, left)


def _batches(plan: Sequence[Labels]) -> Iterator[dict[int, list[str]]]:
    """The plan in batches: tasks with their choices."""
    choices = [(task, labels.choices) for labels in plan for task in labels.tasks]
    for start in range(0, len(choices), BATCH_TASKS):
        yield dict(choices[start : start + BATCH_TASKS])


def _region(tag: ImageChoices, choices: list[str]) -> Json:
    region: Json = tag.prediction(choices, 1.0)["result"][0]
    del region["score"]  # a person chose it
    return region


def _write_batch(tasks: ProjectTasks, regions: Mapping[int, Json]) -> dict[int, TaskState]:
    """Labels the tasks; returns their states once each that still exists has an annotation."""
    failure = LabelStudioError("Label Studio accepted the labels but created no annotations from them")
    for _ in range(TRIES):
        seen = _without_surplus(tasks, tasks.look(list(regions)))
        left = {task: state for task, state in seen.items() if not (state.ours or state.others)}
        if not left:
            return seen
        try:
            if missing := left.keys() - tasks.predicted(list(left)):
                tasks.predict({task: regions[task] for task in sorted(missing)})
            tasks.annotate(list(left))
        except (LabelStudioDown, TokenRefused):
            raise
        except LabelStudioError as error:  # perhaps because one of the tasks was just deleted
            failure = error
    seen = _without_surplus(tasks, tasks.look(list(regions)))
    if all(state.ours or state.others for state in seen.values()):
        return seen
    raise failure


def _without_surplus(tasks: ProjectTasks, seen: Mapping[int, TaskState]) -> dict[int, TaskState]:
    """Removes our annotation if someone labeled the task at the same moment, and all but one if we wrote twice.

    An annotation that someone has changed is never removed.
    """
    left = {}
    for task, state in seen.items():
        # Someone may have labeled the task from the run's own prediction; theirs has the mark, too.
        surplus = state.unchanged if state.others or state.is_changed else state.unchanged[1:]
        for annotation in surplus:
            tasks.remove(annotation)
        left[task] = replace(state, ours=[one for one in state.ours if one not in surplus])
    return left


def _count_written(outcome: _Outcome, batch: Mapping[int, object], seen: Mapping[int, TaskState]) -> None:
    outcome.done += len(batch)
    outcome.there += sum(bool(state.ours) for state in seen.values())
    outcome.left_alone["deleted"] += batch.keys() - seen.keys()
    outcome.left_alone["labeled"] += [task for task, state in seen.items() if not state.ours]


def _undo_batch(
    run: Run, outcome: _Outcome, ids: Sequence[int], tasks: ProjectTasks, progress: Progress
) -> tuple[Run, dict[int, TaskState]]:
    """Removes unchanged annotations; returns the run, and the states of the tasks afterwards."""
    for _ in range(TRIES):
        seen = tasks.look(ids, drafts=True)
        left = {task: state for task, state in seen.items() if state.unchanged}
        if not left:
            return run, seen
        # Stored before they are removed: if this attempt is interrupted, the next one doesn't find these annotations.
        outcome.removing |= left.keys()
        run = progress(outcome.of(run))
        alone = {task: state for task, state in left.items() if _has_only_ours(state)}
        if alone:
            tasks.remove_all(alone)
        for task in left.keys() - alone.keys():
            for annotation in left[task].unchanged:
                tasks.remove(annotation)
    raise LabelStudioError("Label Studio accepted the deletion of annotations but didn't delete all of them")


def _has_only_ours(state: TaskState) -> bool:
    """Whether nothing else is lost if all of the task's annotations and drafts are deleted at once."""
    return not (state.others or state.drafts or state.is_changed)
