"""The queue that runs jobs in the server process."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from my_backend.jobs.queue import QueueStatus
from my_backend.jobs.record import EMBED, KINDS, Job, Kind, new_job
from my_backend.jobs.run import (
    RunningJob,
    Work,
    cancel_waiting,
    interrupted,
    refuse_waiting,
    run_job,
    yield_to_others,
)
from my_backend.jobs.store import JobStore

log = logging.getLogger(__name__)

NO_WORKERS = "neither REDIS_URL nor REDIS_HOST is set any longer, so there are no workers that could embed images"
STOP_SECONDS = 6.0  # for a running job's next step; Docker, for example, kills the process after 10 s


class ThreadQueue:
    """Runs jobs in the server process: one thread per kind, so that no correction waits for a long training run."""

    def __init__(self, store: JobStore, work: Work) -> None:
        self._store, self._work = store, work
        self._lock = threading.Condition()
        self._waiting: dict[Kind, list[Job]] = {kind: [] for kind in KINDS}
        self._running: dict[Kind, RunningJob | None] = dict.fromkeys(KINDS)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._run, args=(kind,), name=f"jobs-{kind}", daemon=True) for kind in KINDS
        ]

    def start(self) -> None:
        """Runs the jobs that an earlier process left unfinished, then newly submitted ones."""
        for job in self._store.all():
            if job.unfinished:
                if job.status == "started":
                    log.warning("job %s was running when the process died; restarting it", job.id)
                job = replace(job, status="queued", progress={})
                try:
                    self._store.save(job)
                except OSError as error:  # the disk may be full, and the older record will do
                    log.warning("job %s: can't write its record: %s", job.id, error)
                self._waiting[job.kind].append(job)
        self._refuse_embedding_jobs()
        for thread in self._threads:
            thread.start()

    def _refuse_embedding_jobs(self) -> None:
        """Ends those that workers have left; if there are workers again, others take their place."""
        for job in self._store.unfinished(kinds=(EMBED,)):
            try:
                refuse_waiting(job, self._store, NO_WORKERS)
            except OSError as error:
                log.warning("job %s: can't write its record: %s", job.id, error)

    def stop(self) -> None:
        """Ends the running jobs at their next step; they continue after the next start."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        deadline = time.monotonic() + STOP_SECONDS
        for kind, thread in zip(KINDS, self._threads, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            running = self._running[kind]
            if thread.is_alive() and running:
                log.warning("job %s didn't stop in time; it will run again after the next start", running.job.id)
                self._store.update(interrupted(running.job))

    def status(self) -> QueueStatus:
        alive = {kind: int(thread.is_alive()) for kind, thread in zip(KINDS, self._threads, strict=True)}
        return QueueStatus(workers=alive)

    def submit(self, project: str, kind: Kind, cause: str) -> Job:
        with self._lock:
            waiting = next((job for job in self._waiting[kind] if job.project == project), None)
            if waiting:
                return waiting
            running = self._running[kind]
            if running and running.job.project == project and self._store.will_read(running.job):
                return running.job
            job = new_job(project, kind, cause)
            self._store.add(job)
            self._waiting[kind].append(job)
            self._lock.notify_all()
            return job

    def cancel(self, job_id: str) -> Job:
        with self._lock:
            job = self._store.get(job_id)
            queue = self._waiting.get(job.kind, [])  # a worker may have left an embedding job, and the disk be full
            if any(waiting.id == job_id for waiting in queue):
                queue[:] = [waiting for waiting in queue if waiting.id != job_id]
                return cancel_waiting(job, self._store)
            if job.unfinished:
                self._store.request_cancel(job)
            return job

    def _run(self, kind: Kind) -> None:
        if kind == "full":
            yield_to_others()
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stopping or self._waiting[kind])
                if self._stopping:
                    return
                job = self._waiting[kind].pop(0)
                self._running[kind] = RunningJob(job, self._store, self._is_stopping)
            self._run_one(job)

    def _run_one(self, job: Job) -> None:
        try:
            run_job(job, self._store, self._work_on, self._is_stopping)
        except Exception:
            log.exception("job %s: can't write its record; it will run again after the next start", job.id)
        with self._lock:
            self._running[job.kind] = None

    def _work_on(self, running: RunningJob) -> dict[str, Any]:
        with self._lock:
            self._running[running.job.kind] = running
        try:
            return self._work(running)
        finally:  # it may have failed before it read the annotations: then the next one reads them
            with self._lock:
                self._running[running.job.kind] = None

    def _is_stopping(self) -> bool:
        return self._stopping
