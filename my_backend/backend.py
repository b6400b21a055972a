"""Builds all parts of a server process and starts and stops them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

from my_backend import files
from my_backend.active_learning.prediction_refresh import PredictionRefresh
from my_backend.active_learning.title_sync import TitleSync
from my_backend.diagnostics.config_problems import ConfigProblems
from my_backend.diagnostics.lasting import LastingProblems
from my_backend.diagnostics.monitor import Monitor
from my_backend.diagnostics.summary import Summary
from my_backend.errors import NotFound
from my_backend.jobs.backlog import Backlog
from my_backend.jobs.embedding_renewal import EmbeddingRenewal
from my_backend.jobs.embedding_sharing import EmbeddingSharing
from my_backend.jobs.queue import JobQueue, submit_correction
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.jobs.record import EMBED, KINDS
from my_backend.jobs.retraining import Retraining
from my_backend.jobs.store import JobStore, claimed_model_dir
from my_backend.jobs.thread_queue import ThreadQueue
from my_backend.jobs.training_job import TrainingJob
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.follower import Follower, Observer
from my_backend.label_studio.media import media_pool
from my_backend.label_studio.webhook_password import WebhookPassword
from my_backend.labeling.auto_accept.acceptor import Acceptor
from my_backend.labeling.auto_accept.planner import Planner
from my_backend.labeling.drift.watch import DriftWatch
from my_backend.labeling.pool.all_projects import Pools
from my_backend.labeling.runs.records import Run
from my_backend.labeling.runs.writer import Writer
from my_backend.notifications.notifier import Notifier
from my_backend.notifications.outbox import Outbox
from my_backend.notifications.trainings import Trainings
from my_backend.projects.project import Project
from my_backend.projects.recent_predictions import Recent
from my_backend.projects.registry import Projects
from my_backend.published_hook.caller import PublishedHook
from my_backend.serving.exports import Exports
from my_backend.serving.live_models import Serving
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings
from my_backend.storage import Storage, check_folders, remove_parts
from my_backend.token_gate import TokenGate


class Service(Protocol):
    """A part that works in its own threads."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Backend:
    """The parts of a server; nothing runs before `running` is entered."""

    def __init__(self, settings: Settings) -> None:
        check_folders(settings)
        folder = settings.model_dir / "projects"
        files.make_private(folder)  # other users of this machine mustn't see images, annotations and tokens
        self.settings = settings
        self.came_through_proxy = threading.Event()  # set by the first request that came through a proxy
        self.projects = Projects.of(settings)
        self._media_pool = media_pool()
        self.connections = Connections(settings)
        self.new_model = ModelFactory(settings, self.projects, self.connections, self._media_pool)
        self.open_media = self.new_model.open_media
        self.serving = Serving(self.projects, self.new_model, settings.page or settings.address)
        self.exports = Exports(settings, self.projects, self.new_model)
        self.job_store = JobStore(folder)
        self.storage = Storage(settings, self.projects, self.job_store)
        self.queue = self._make_queue()
        self.embedding_sharing = EmbeddingSharing(self.job_store, self.queue if settings.redis else None)
        self.token_gate = TokenGate(self.projects, self.connections)
        self.labeling = Writer(
            self.projects, self.connections, self.job_store.tally, self._labeling_ended, self.token_gate.is_waiting
        )
        self.pools = Pools(self.projects, self.connections, self.serving, self.new_model, self.labeling.store)
        planner = Planner(self.projects, self.connections, self.serving, self.pools)
        self.acceptor = Acceptor(self.projects, self.connections, self.labeling, planner.prepare)
        self.retraining = Retraining(
            self.projects, settings.retrain_after_annotations, self.submit_correction, self.labeling.is_writing
        )
        self.backlog = Backlog(
            self.projects,
            self.job_store,
            self.queue.submit,
            self.open_media,
            images=bool(settings.retrain_after_annotations),
        )
        self.webhook_password = WebhookPassword(settings, self.projects)
        self.reconciliation = Reconciliation(self.submit_correction)
        self.recent = Recent(self.projects)
        self.monitor = Monitor(settings, self.projects)
        self.drift = DriftWatch(self.projects, self.connections, self.serving)
        self.title_sync = TitleSync(settings, self.serving)
        self.follower = Follower(self.projects, self.connections, self._observers())
        self.prediction_refresh = PredictionRefresh(
            settings, self.projects, self.connections, self.serving, self.recent, self.title_sync.predicted
        )
        self.notifier = Notifier(
            settings,
            Outbox(folder),
            [
                Trainings(self.projects, self.job_store),
                LastingProblems(self.projects, lambda: self.summary.problems()),
            ],
        )
        self.published_hook = PublishedHook(settings, self.projects)
        self.summary = Summary(
            settings=settings,
            projects=self.projects,
            configs=ConfigProblems(),
            storage=self.storage,
            serving=self.serving,
            queue=self.queue,
            backlog=self.backlog,
            recent=self.recent,
            monitor=self.monitor,
            webhook_password=self.webhook_password,
            title_sync=self.title_sync,
            prediction_refresh=self.prediction_refresh,
            labeling=self.labeling,
            acceptor=self.acceptor,
            drift=self.drift,
            token_gate=self.token_gate,
            came_through_proxy=self.came_through_proxy,
            notification_failure=self.notifier.failure,
            published_hook=self.published_hook,
        )

    def _make_queue(self) -> JobQueue:
        if self.settings.redis:
            from my_backend.jobs.rq_queue import RqQueue  # here, so that a server without Redis listens earlier

            return RqQueue(self.settings, self.job_store)
        work = TrainingJob(
            self.settings, self.projects, self.job_store, self.connections, self.new_model, self.submit_correction
        )
        return ThreadQueue(self.job_store, work)

    def submit_correction(self, project: str) -> None:
        """Requests a quick training run, as annotation events do."""
        submit_correction(self.queue, project)

    def delete(self, project: Project) -> None:
        """Cancels the project's jobs and removes everything that is kept of it."""
        # The newest first: queued jobs must not start when a running one ends.
        for job in self.job_store.unfinished(project.uid, (*KINDS, EMBED))[::-1]:
            with suppress(OSError, NotFound):  # on a full disk, say; a job also ends when its record is gone
                self.queue.cancel(job.id)
        self.projects.delete(project.uid)

    def _remove_leftovers(self) -> None:
        self.projects.remove_leftovers()
        remove_parts(self.settings)

    def _labeling_ended(self, run: Run) -> None:
        self.retraining.run_ended(run.project, one_by_one=run.kind == "single")

    def _observers(self) -> list[Observer]:
        """The parts that look at projects in Label Studio, in this order: the monitor sees what the others changed."""
        observers: list[Observer] = [self.webhook_password, self.title_sync]
        if self.settings.retrain_after_annotations:
            observers.append(self.reconciliation)
        if self.settings.redis:
            observers.append(EmbeddingRenewal(self.queue))
        return [*observers, self.drift, self.monitor]

    def _services(self) -> list[Service]:
        """The threads, in the order in which they start; they stop in the opposite order."""
        return [
            self.storage,
            self.exports,
            self.queue,
            self.retraining,
            self.backlog,
            self.labeling,
            self.pools,
            self.acceptor,
            self.token_gate,
            self.recent,
            self.follower,
            self.drift,
            self.prediction_refresh,
            self.published_hook,
            self.notifier,
            self.serving,  # last: while it imports the model's library, the others would have to wait
        ]

    @contextmanager
    def running(self) -> Iterator["Backend"]:
        """Starts the threads, and stops them when the block ends; raises Conflict."""
        with claimed_model_dir(self.settings), ExitStack() as started:
            started.callback(self._media_pool.shutdown, wait=False, cancel_futures=True)
            # In a separate thread: there may be gigabytes, on a slow file system.
            threading.Thread(target=self._remove_leftovers, name="leftovers", daemon=True).start()
            for service in self._services():
                service.start()
                started.callback(service.stop)
            yield self
