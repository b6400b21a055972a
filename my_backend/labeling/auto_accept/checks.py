"""The audit of accepted labels: what a person's random checks say about all of them."""

from dataclasses import dataclass
from itertools import takewhile

from my_backend.labeling.auto_accept.guarantee import Audit, audit, decide
from my_backend.labeling.auto_accept.records import Acceptance, PlannedImage, PlannedPredictions
from my_backend.labeling.runs.records import Run

AUDITED_AT_ONCE = 20  # accepted images that a person gets to check


@dataclass(frozen=True)
class Checks:
    """The audit of accepted labels: which images come next, and what the checks say about all of them."""

    accepted: int
    checked: int
    wrong: int
    bounds: Audit
    next: list[PlannedImage]
    overtaken: int  # accepted images that people labeled or deleted before the backend wrote its labels
    is_shown: bool  # the sample still shows that the guarantee holds for those that were written

    @property
    def contradicted(self) -> bool:
        """Whether the accepted labels should be undone."""
        return self.bounds.contradicted or not self.is_shown


@dataclass(frozen=True)
class Contradiction:
    """An audit that contradicts the guarantee."""

    acceptance: Acceptance
    checks: Checks


def checks_of(acceptance: Acceptance, predictions: PlannedPredictions, run: Run) -> Checks | None:
    """What the audit says; None unless the labels are written. A task that the run left alone wasn't accepted.

    If that happened to many tasks, the others may not be enough: fewer wrong predictions are allowed among them. Only
    checks from the beginning of the random order count, so that nobody can choose which images are checked.
    """
    if run.status != "finished" or (run.action == "undo" and not run.withdrawn):
        return None
    withdrawn = set(run.withdrawn)  # a person undid these one by one
    overtaken = {*run.left_alone.get("labeled", ()), *run.left_alone.get("deleted", ())} - withdrawn
    # What a check has shown of an accepted label stays, although the label is undone.
    left_out = overtaken | (withdrawn - acceptance.audited.keys())
    written = [task for task in acceptance.accepted if task in predictions.by_task and task not in left_out]
    checked = list(takewhile(acceptance.audited.__contains__, written))
    wrong = sum(acceptance.audited[task] != predictions.by_task[task].answer for task in checked)
    coming = [task for task in written if task not in acceptance.audited][:AUDITED_AT_ONCE]
    bounds = audit(acceptance.alpha, len(written), len(checked), wrong)
    lost = overtaken.intersection(acceptance.accepted)
    return Checks(
        len(written),
        len(checked),
        wrong,
        bounds,
        [predictions.by_task[task] for task in coming],
        len(lost),
        not lost or _is_shown(acceptance, predictions, lost),
    )


def _is_shown(acceptance: Acceptance, predictions: PlannedPredictions, lost: set[int]) -> bool:
    """Whether the sample would have allowed accepting the images without those of the tasks `lost`."""
    numbers = {image.task: number for number, image in enumerate(predictions.images)}
    gone = {numbers[task] for task in lost if task in numbers}
    allowed = decide(predictions.plan(acceptance.alpha), acceptance.sample, [*acceptance.gone, *gone]).accepted
    return {numbers[task] for task in acceptance.accepted if task in numbers} - gone <= set(allowed.tolist())
