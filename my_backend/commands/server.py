"""The server: in this process with its training runs, or as an application for uWSGI.

This module imports neither typer nor rich, so that the server listens early.
"""

import logging
import signal
import threading

from flask import Flask

from my_backend.backend import Backend
from my_backend.commands.console import show_progress
from my_backend.commands.development import DevelopmentServer
from my_backend.commands.port import listen
from my_backend.commands.production import CANNOT_LOAD, note_refusal
from my_backend.commands.shutdown import at_exit_of_uwsgi, leave
from my_backend.errors import BackendError
from my_backend.log.setup import collect_output, set_up_logs
from my_backend.settings import Settings, read_settings
from my_backend.web.app import create_app

log = logging.getLogger(__name__)


def serve(host: str | None, port: int | None) -> None:
    """Runs the development server, with a thread for each request, until SIGTERM or Ctrl-C.

    `host` and `port` override the settings unless they are None or empty. If the model class can't be used, the server
    ends, too: a person is there to correct the settings. Raises SystemExit, with the reason, if it can't start.
    """
    settings = read_settings()
    given = {key: value for key, value in (("host", host), ("port", port)) if value not in (None, "")}
    try:
        collect_output(settings, "server", settings.log_file)
        set_up_logs(settings)
        _serve(settings.model_copy(update=given))
    except BackendError as error:
        raise SystemExit(str(error)) from None


def _serve(settings: Settings) -> None:
    backend = Backend(settings)
    status = 0
    with listen(settings) as listening:
        server = DevelopmentServer(create_app(backend), settings.host, listening)

        def give_up(why: str) -> None:
            nonlocal status
            status = 1
            server.shutdown()

        backend.serving.unusable = give_up
        with backend.running():
            # shutdown() waits for the server's loop, which runs in this thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
            here = settings.model_copy(update={"port": server.port}).address
            log.info("listening on %s, models in %s; open %s/ in a browser", here, settings.model_dir, here)
            with server, show_progress(backend.job_store):
                server.serve_forever(poll_interval=0.1)
    leave(status)


def application_for_uwsgi() -> Flask:
    """The application for a uWSGI process with its threads running; they stop when the process ends.

    If the model class or a folder can't be used, uWSGI ends: a server that is never ready would hide the reason.
    """
    settings = read_settings()
    set_up_logs(settings)

    def give_up(why: str) -> None:
        if backend.serving.ready:  # existing versions are served, although no other can be trained
            return
        note_refusal(why)
        leave(CANNOT_LOAD)

    try:
        backend = Backend(settings)
        app = create_app(backend)  # before the threads start; see its docstring
        backend.serving.unusable = give_up
        running = backend.running()
        running.__enter__()
    except BackendError as error:
        note_refusal(str(error))
        leave(CANNOT_LOAD)

    def end() -> None:
        running.__exit__(None, None, None)
        leave()

    at_exit_of_uwsgi(end)
    return app
