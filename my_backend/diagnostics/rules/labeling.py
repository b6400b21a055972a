"""Problems with labeling runs, and with requests that callers made with their own token."""

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.scores import RETRIED
from my_backend.diagnostics.rules.wording import ended
from my_backend.labeling.auto_accept.checks import Contradiction
from my_backend.labeling.runs.writer import HaltedRun
from my_backend.token_gate import Refusal


def run_halted(halted: HaltedRun) -> Problem:
    """A labeling run that isn't finished and doesn't go on at the moment."""
    run = halted.run
    what = f"Labeling run {run.id} ({run.tasks:,} {'task' if run.tasks == 1 else 'tasks'})"
    match halted.state:
        case "failed":
            message = ended(f"{what} stopped: {run.error}")
            hint = (
                f"Fix the cause, then resume the run (`python -m my_backend label resume {run.id}`) or undo it "
                f"(`… label undo {run.id}`)."
            )
        case "needs a token":
            message = f"{what} needs a token: its token was kept only in the memory of a process that has since ended."
            hint = "Resume or undo it with a token, over HTTP or with `python -m my_backend label`."
        case "waits":
            message, hint = ended(f"{what} has to wait: {run.error}"), RETRIED
    return Problem("labeling", message, hint, run.project)


def audit_contradicts(found: Contradiction) -> Problem:
    """Accepted labels to undo: the audit contradicts the guarantee, or the sample no longer supports it."""
    checks, acceptance = found.checks, found.acceptance
    if checks.bounds.contradicted:
        message = (
            f"At least {checks.bounds.low:.1%} of the labels that were accepted without review are wrong, "
            f"but the limit is {acceptance.alpha:.0%}: {checks.wrong} of {checks.checked} randomly checked labels are "
            "wrong."
        )
    else:
        message = (
            f"The sample no longer shows that at most {acceptance.alpha:.0%} of the labels that were accepted without "
            f"review are wrong: {checks.overtaken:,} of the images were labeled or deleted before the backend wrote "
            "its labels."
        )
    number = acceptance.project.partition(".")[0]
    hint = (
        "Undo these labels on the project's Accept page, or with "
        f"`python -m my_backend label accept undo --project {number}`."
    )
    return Problem("accepted-wrong", message, hint, acceptance.project)


def request_refused(project: str, refusal: Refusal) -> Problem:
    """A caller without the password asked for something that their token doesn't allow; `project` is the uid."""
    hint = "Send this backend's password, or the Label Studio token of someone who may change the project."
    return Problem("refused", ended(f"{refusal.what} was refused: {refusal.error}"), hint, project)
