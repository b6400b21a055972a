"""The problem with the function that is called for published versions."""

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.wording import ended
from my_backend.published_hook.caller import Calls


def hook_failed(project: str, calls: Calls) -> Problem:
    """The last call for a version of the project failed."""
    return Problem(
        "published-hook",
        ended(f"PUBLISHED_HOOK failed for {calls.failed}: {calls.why}"),
        "The version itself was still published. The log has the full error. Fix the cause, then repeat the "
        f"call: `python -m my_backend versions hook {calls.failed} --project {project}`.",
        project,
    )
