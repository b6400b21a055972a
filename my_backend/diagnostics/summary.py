"""All known problems, from memory: for the page, `/health` and other programs."""

from label_studio_format.labeling_config import HOW_TO_MAKE_IT_USABLE, parse_label_config
from my_backend.backend import Backend
from my_backend.problems import Problem

OPEN_PROXY = Problem(
    "open-proxy",
    "Requests come through a proxy, and no password is set: anyone it lets in can train, delete and view images.",
    "Set BASIC_AUTH_USER and BASIC_AUTH_PASS, and restart the backend. Until then it ignores which Label Studio these "
    "requests name.",
)


def diagnose(backend: Backend) -> list[Problem]:
    """General problems first, then those of each project; reads memory only."""
    problems = [*backend.storage.problems(), *(Problem("model", one) for one in backend.serving.problems())]
    if problem := backend.queue.problem():
        problems.append(problem)
    if backend.came_through_proxy.is_set() and backend.settings.basic_auth is None:
        problems.append(OPEN_PROXY)
    found = backend.checkup.problems()
    if not backend.settings.label_studio_api_key.get_secret_value():
        if not backend.checkup.reads_all:  # otherwise the token from `/setup` is enough
            problems.append(no_token(backend.checkup.url))
        found = [problem for problem in found if problem.code != "token"]
    for project in backend.projects.all():
        config = parse_label_config(project.label_config, backend.settings.choices)
        if config.problem:
            problems.append(Problem("labeling-config", config.problem, HOW_TO_MAKE_IT_USABLE, project.uid))
    for problem in backend.webhook_password.problems():
        # If Label Studio could be asked, the monitor knows the state of the webhook.
        finding = backend.checkup.finding(problem.project)
        if finding is None or finding.connected is None:
            problems.append(problem)
    by_threads = (backend.title_keeper, backend.renewal, backend.recent)
    return [*problems, *found, *(problem for one in by_threads for problem in one.problems())]


def no_token(url: str = "") -> Problem:
    """A problem: only the token from `/setup` is available; `url` is Label Studio's, if known."""
    return Problem(
        "no-token",
        "LABEL_STUDIO_API_KEY is not set: the backend can use only the token that Label Studio sends when it connects, "
        "which works only if legacy tokens are enabled.",
        "In Label Studio, open your avatar → Account & Settings → Personal Access Token → Create New Token. Then "
        f"restart the backend with `LABEL_STUDIO_URL={url or 'http://localhost:8080'} "
        "LABEL_STUDIO_API_KEY=<the token>` before its command, or put both lines into a `.env` file in its working "
        "directory.",
    )
