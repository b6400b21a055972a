"""All known problems, from memory: for the page, `/health` and other programs."""

import threading
from dataclasses import dataclass

from label_studio_format.labeling_config import HOW_TO_MAKE_IT_USABLE, parse_label_config
from my_backend.active_learning.prediction_refresh import Renewal
from my_backend.active_learning.title_sync import TitleKeeper
from my_backend.diagnostics.monitor import Monitor
from my_backend.jobs.job import JobQueue
from my_backend.label_studio.webhook_password import WebhookPassword
from my_backend.problems import Problem
from my_backend.projects.recent_predictions import Recent
from my_backend.projects.registry import Projects
from my_backend.serving.live_models import Serving
from my_backend.settings import Settings
from my_backend.storage import Storage

OPEN_PROXY = Problem(
    "open-proxy",
    "Requests come through a proxy, and no password is set: anyone it lets in can train, delete and view images.",
    "Set BASIC_AUTH_USER and BASIC_AUTH_PASS, and restart the backend. Until then it ignores which Label Studio these "
    "requests name.",
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The problems that the parts of a server know about."""

    settings: Settings
    projects: Projects
    storage: Storage
    serving: Serving
    queue: JobQueue
    recent: Recent
    monitor: Monitor
    webhook_password: WebhookPassword
    title_keeper: TitleKeeper
    renewal: Renewal
    came_through_proxy: threading.Event

    def problems(self) -> list[Problem]:
        """General problems first, then those of each project; reads memory only."""
        problems = [*self.storage.problems(), *(Problem("model", one) for one in self.serving.problems())]
        if problem := self.queue.problem():
            problems.append(problem)
        if self.came_through_proxy.is_set() and self.settings.basic_auth is None:
            problems.append(OPEN_PROXY)
        found = self.monitor.problems()
        if not self.settings.label_studio_api_key.get_secret_value():
            if not self.monitor.reads_all:  # otherwise the token from `/setup` is enough
                problems.append(no_token(self.monitor.url))
            found = [problem for problem in found if problem.code != "token"]
        for project in self.projects.all():
            config = parse_label_config(project.label_config, self.settings.choices)
            if config.problem:
                problems.append(Problem("labeling-config", config.problem, HOW_TO_MAKE_IT_USABLE, project.uid))
        for problem in self.webhook_password.problems():
            # If Label Studio could be asked, the monitor knows the state of the webhook.
            finding = self.monitor.finding(problem.project)
            if finding is None or finding.connected is None:
                problems.append(problem)
        by_threads = (self.title_keeper, self.renewal, self.recent)
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
