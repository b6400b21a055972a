"""All of the doctor's checks: what the backend needs, and how Label Studio sees it."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.doctor.label_studio_checks import check_label_studio
from my_backend.diagnostics.doctor.machine import check_cache, check_disk, check_gpu, check_own_folders
from my_backend.diagnostics.doctor.notification_check import check_notifications
from my_backend.diagnostics.doctor.project_checks import check_projects
from my_backend.diagnostics.doctor.redis_checks import check_redis
from my_backend.diagnostics.doctor.server_checks import check_model, check_server
from my_backend.diagnostics.rules.label_studio import no_token
from my_backend.diagnostics.rules.server import invalid_settings
from my_backend.label_studio.connections import Connections
from my_backend.settings import Settings


def examine(settings: Settings) -> Iterator[Check]:
    """Runs all checks, one after the other. They change nothing except creating missing folders."""
    folders = check_own_folders(settings)
    yield folders
    if folders.problems:
        return
    yield check_disk(settings)
    yield check_cache(settings)
    server, computes = check_server(settings)
    redis = check_redis(settings)
    if "redis" in _codes(redis):  # the server reports the same problem in other words
        server = replace(server, problems=tuple(one for one in server.problems if one.code != "redis"))
    yield server
    if "server" in _codes([server]):
        model, computes = check_model(settings)
        yield model
    yield check_gpu(computes)
    yield from redis
    yield check_notifications(settings)
    yield from _label_studio(settings)


def _label_studio(settings: Settings) -> Iterator[Check]:
    connections = Connections(settings)
    configured = connections.label_studio()
    found = check_label_studio(configured) if configured else [Check("token", problems=(no_token(),))]
    yield from found
    ask = configured is None or not _codes(found) & {"label-studio", "token", "token-short"}
    yield from check_projects(settings, connections, ask=ask)


def _codes(checks: Iterable[Check]) -> set[str]:
    return {problem.code for check in checks for problem in check.problems}


def check_settings_file(error: str) -> Check:
    """The check of the settings; `error` has a line for each invalid setting."""
    return Check("settings", problems=(invalid_settings(error),))
