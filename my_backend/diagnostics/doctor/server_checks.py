"""Checks of the running server and of the model class that it serves."""

from dataclasses import dataclass
from typing import Any

import requests
from requests.auth import HTTPBasicAuth

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.models import model_warning
from my_backend.diagnostics.rules.server import invalid_settings, other_server, server_not_found
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.projects.registry import Projects
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import EVERYWHERE, Settings
from my_backend.storage import identity
from safe_http.redaction import redact

SERVER_SECONDS = 10.0
# Problems that only the running server knows about; the doctor checks the others itself.
FROM_THE_SERVER = (
    "settings",
    "disk",
    "damaged",
    "model",
    "redis",
    "open-proxy",
    "images",
    "title",
    "renewal",
    "labeling",
    "accepted-wrong",
    "images-drifted",
    "refused",
    "published-hook",
    "backlog",
)

Json = dict[str, Any]


@dataclass(frozen=True)
class ServerState:
    """Whether the server is ready to predict, in words, too."""

    ready: bool
    said: str


def server_state(settings: Settings) -> ServerState:
    """The state of the server at HOST and PORT."""
    url = _url(settings)
    try:
        health = _ask(settings, url, "/health")
        ready, problems, model_dir = health["ready"], len(health["problems"]), health["model_dir"]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        return ServerState(False, f"no server at {url}: {_no_server(error)}")
    if model_dir != identity(settings.model_dir):
        return ServerState(False, f"the server at {url} uses a different MODEL_DIR")
    state, remedy = "ready" if ready else "starting", "; `doctor` lists them" if problems else ""
    return ServerState(ready, f"the server at {url} is {state}; problems: {problems}{remedy}")


def check_server(settings: Settings) -> tuple[Check, Json]:
    """Whether the server is running, with the problems only it knows about; also how its model computes."""
    url = _url(settings)
    try:
        told = [Problem.of_record(one) for one in _ask(settings, url, "/problems")["troubles"]]
        health = _ask(settings, url, "/health")
        computes, model_dir = health["model"], health["model_dir"]
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        return Check("server", problems=(server_not_found(url, _no_server(error)),)), {}
    if model_dir != identity(settings.model_dir):
        return Check("server", problems=(other_server(url),)), {}
    described = f"running at {url}; {_described(computes)}"
    return Check("server", described, tuple(one for one in told if one.code in FROM_THE_SERVER)), computes


def _url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in EVERYWHERE else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _ask(settings: Settings, url: str, path: str) -> Any:
    """The server's answer, parsed from JSON."""
    auth = HTTPBasicAuth(*(one.encode() for one in settings.basic_auth)) if settings.basic_auth else None
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url + path, auth=auth, timeout=SERVER_SECONDS)
    answer.raise_for_status()
    return answer.json()


def _refused(error: Exception) -> bool:
    return isinstance(error, requests.ConnectionError | requests.Timeout)


def _no_server(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, requests.HTTPError) else None
    return f"the response was {status}" if status else "no response" if _refused(error) else "another program answered"


def check_model(settings: Settings) -> tuple[Check, Json]:
    """Whether the model class loads, whether it reports a problem with its weights, and how it computes."""
    pool = media_pool()
    computes: Json = {}
    try:
        projects = Projects.of(settings)
        model_class = ModelFactory(settings, projects, Connections(settings), pool).load()
        warning = redact(model_class.warm_up() or "")
        computes = model_class.describe()
    except Exception as error:  # a user's own class may raise anything
        warning = redact(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    said = f"{settings.model_class}; {_described(computes)}"
    # Invalid settings of the model are reported like the backend's, a line for each.
    problem = invalid_settings(warning) if "\n" in warning else model_warning(warning)
    return Check("model", said, (problem,) if warning else ()), computes


def _described(computes: Json) -> str:
    """Network, weights and device, if the model tells them."""
    if not {"network", "weights", "device"} <= computes.keys():
        return "its model isn't loaded yet or doesn't describe itself"
    return f"{computes['network']}, {computes['weights']} weights, on {computes['device']}"
