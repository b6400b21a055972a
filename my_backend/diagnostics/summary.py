"""All known problems, from memory: for the page, `/health` and other programs."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from my_backend.active_learning.prediction_refresh import PredictionRefresh
from my_backend.active_learning.title_sync import TitleSync
from my_backend.diagnostics.config_problems import ConfigProblems
from my_backend.diagnostics.monitor import Monitor
from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.connection import events_without_password
from my_backend.diagnostics.rules.images import image_problems, images_drifted
from my_backend.diagnostics.rules.jobs import backlog_failed, queue_problems
from my_backend.diagnostics.rules.label_studio import no_token
from my_backend.diagnostics.rules.labeling import audit_contradicts, request_refused, run_halted
from my_backend.diagnostics.rules.models import model_problems
from my_backend.diagnostics.rules.notifications import not_delivered
from my_backend.diagnostics.rules.published_hook import hook_failed
from my_backend.diagnostics.rules.scores import refresh_failed, title_problems
from my_backend.diagnostics.rules.server import OPEN_PROXY
from my_backend.diagnostics.rules.storage import storage_problems
from my_backend.jobs.backlog import Backlog
from my_backend.jobs.queue import JobQueue
from my_backend.label_studio.webhook_password import WebhookPassword
from my_backend.labeling.auto_accept.acceptor import Acceptor
from my_backend.labeling.drift.watch import DriftWatch
from my_backend.labeling.runs.writer import Writer
from my_backend.projects.recent_predictions import Recent
from my_backend.projects.registry import Projects
from my_backend.published_hook.caller import PublishedHook
from my_backend.serving.live_models import Serving
from my_backend.settings import Settings
from my_backend.storage import Storage
from my_backend.token_gate import TokenGate


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The problems that the parts of a server know about."""

    settings: Settings
    projects: Projects
    configs: ConfigProblems
    storage: Storage
    serving: Serving
    queue: JobQueue
    backlog: Backlog
    recent: Recent
    monitor: Monitor
    webhook_password: WebhookPassword
    title_sync: TitleSync
    prediction_refresh: PredictionRefresh
    labeling: Writer
    acceptor: Acceptor
    drift: DriftWatch
    token_gate: TokenGate
    came_through_proxy: threading.Event
    notification_failure: Callable[[], str]
    published_hook: PublishedHook

    def problems(self) -> list[Problem]:
        """General problems first, then those of each project; reads memory only."""
        problems = storage_problems(self.storage.status())
        problems += model_problems(self.serving.status())
        problems += queue_problems(self.queue.status())
        if self.came_through_proxy.is_set() and self.settings.basic_auth is None:
            problems.append(OPEN_PROXY)
        problems += [not_delivered(why) for why in [self.notification_failure()] if why]
        problems += self._of_label_studio()
        for project, status in self.title_sync.statuses().items():
            problems += title_problems(project, status)
        problems += [refresh_failed(project, error) for project, error in self.prediction_refresh.failures().items()]
        problems += [backlog_failed(project, error) for project, error in self.backlog.failures().items()]
        problems += [hook_failed(project, calls) for project, calls in self.published_hook.failures().items()]
        for project, failed in self.recent.failed().items():
            problems += image_problems(project, failed)
        problems += map(run_halted, self.labeling.halted())
        problems += map(audit_contradicts, self.acceptor.contradictions())
        problems += [images_drifted(project, found) for project, found in self.drift.found().items()]
        problems += [request_refused(project, refusal) for project, refusal in self.token_gate.refusals().items()]
        return problems

    def _of_label_studio(self) -> Iterator[Problem]:
        """Problems with the token and the labeling configs first, then those that the monitor found."""
        found = self.monitor.problems()
        if not self.settings.label_studio_api_key.get_secret_value():
            if not self.monitor.reads_all:  # otherwise the token from `/setup` is enough
                yield no_token(self.monitor.url)
            found = [problem for problem in found if problem.code != "token"]
        yield from self.configs.of(self.projects.all())
        for uid in self.webhook_password.unheard():
            # If Label Studio could be asked, the monitor knows the state of the webhook.
            finding = self.monitor.finding(uid)
            if finding is None or finding.connected is None:
                yield events_without_password(uid)
        yield from found
