"""The audit of accepted labels: what a person's random checks say about all of them."""

from dataclasses import dataclass
from itertools import takewhile

from my_backend.labeling.acceptance import Acceptance, Answers, PlannedImage
from my_backend.labeling.auto_accept import Audit, audit
from my_backend.labeling.runs import Run

AUDITED_AT_ONCE = 20  # accepted images that a person gets to check


@dataclass(frozen=True)
class Checks:
    """The audit of accepted labels: which images come next, and what the checks say about all of them."""

    accepted: int
    checked: int
    wrong: int
    bounds: Audit
    next: dict[int, PlannedImage]  # by the task to look at


@dataclass(frozen=True)
class Contradiction:
    """An audit that contradicts the promise."""

    acceptance: Acceptance
    checks: Checks


def checks_of(acceptance: Acceptance, answers: Answers, run: Run) -> Checks | None:
    """What the audit says; None unless the labels are written. A task that the run left alone wasn't accepted.

    Only checks from the beginning of the random order count, so that nobody can choose which images are checked.
    """
    if run.action != "write" or run.status != "finished":
        return None
    left_alone = {task for tasks in run.left_alone.values() for task in tasks}
    written = [task for task in acceptance.accepted if task in answers.by_task and task not in left_alone]
    checked = list(takewhile(acceptance.audited.__contains__, written))
    wrong = sum(acceptance.audited[task] != answers.by_task[task].answer for task in checked)
    coming = [task for task in written if task not in acceptance.audited][:AUDITED_AT_ONCE]
    bounds = audit(acceptance.alpha, len(written), len(checked), wrong)
    return Checks(len(written), len(checked), wrong, bounds, {task: answers.by_task[task] for task in coming})
