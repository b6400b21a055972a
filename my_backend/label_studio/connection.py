"""Checks how a project in Label Studio is connected to this backend; finds problems and what the API can fix."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from my_backend.label_studio.client import HOW_TO_ALLOW_PRIVATE, Blocking, LabelStudio
from my_backend.label_studio.webhook_password import password_header
from my_backend.problems import Problem
from my_backend.projects.registry import Project
from my_backend.settings import LOOPBACK

CONNECTED = ("CO", "TR", "PR")  # states of a model that responds, in Label Studio
PRIVATE_EXAMPLE = "http://127.0.0.1:9090"  # address blocking refuses all private addresses or none

Json = dict[str, Any]
BasicAuth = tuple[str, str] | None


@dataclass(frozen=True)
class Fix:
    """A fix for a problem through Label Studio's API."""

    problem: Problem
    offer: str  # what it would do, for example "add the webhook …"
    do: Callable[[], None]  # raises LabelStudioError


@dataclass(frozen=True)
class Connection:
    """What Label Studio says about one project."""

    project: Json
    connected: bool
    problems: tuple[Problem, ...]
    fixes: tuple[Fix, ...]  # for the problems that the API can fix
    backends: tuple[Json, ...] = ()  # the project's models; Label Studio asks the first one


def examine_connection(
    label_studio: LabelStudio, project: Project, basic_auth: BasicAuth, *, thoroughly: bool = False
) -> Connection:
    """Reads the project, its models and its webhooks from Label Studio; raises LabelStudioError.

    If something is wrong, or if `thoroughly`, it also tests whether address blocking is the reason. Each such test
    leaves a line about a refused request in Label Studio's log.
    """
    described = label_studio.project(project.id)
    backends = sorted(label_studio.backends(project.id), key=lambda one: int(one.get("id") or 0))
    hooks = label_studio.webhooks(project.id)
    # Label Studio has just called each model to find out its state.
    connected = any(backend.get("state") in CONNECTED for backend in backends)
    orphans = [_orphaned(label_studio, project, hook) for hook in hooks if _is_orphan(hook, backends)]
    more = _more_than_one(label_studio, project, hooks, backends)
    main: tuple[Problem | None, Fix | None] = (None, None)
    if not backends:
        main = not_connected(label_studio, project), None
    elif not connected:
        main = _disconnected(label_studio, project, backends[0]), None
    else:
        main = _events(label_studio, project, backends, hooks, basic_auth, thoroughly=thoroughly)
    problems = [*([main[0]] if main[0] else []), *dict.fromkeys(fix.problem for fix in (*more, *orphans))]
    fixes = [*([main[1]] if main[1] else []), *more, *orphans]
    return Connection(described, connected, tuple(problems), tuple(fixes), tuple(backends))


def not_connected(label_studio: LabelStudio, project: Project) -> Problem:
    """No model is connected, perhaps because address blocking prevents it; raises LabelStudioError."""
    what = "No model is connected to this project in Label Studio"
    how = "connect this backend in the project: Settings → Model → Connect Model"
    if blocking := label_studio.blocking(PRIVATE_EXAMPLE):
        what += (
            ", and Label Studio's address blocking refuses private addresses (localhost, containers, 10.x.x.x, "
            "172.16.x.x, 192.168.x.x)."
        )
        remedy = f"{_sentence(_how_to_allow(blocking))}; then {how}. A public address works right away."
        return Problem("address-blocked", what, remedy, project.uid)
    return Problem("not-connected", f"{what}.", f"{_sentence(how)}.", project.uid)


def _disconnected(label_studio: LabelStudio, project: Project, backend: Json) -> Problem:
    url = str(backend.get("url") or "")
    blocking = label_studio.blocking(url)
    if blocking.models:
        return _blocked(project, url, blocking)
    said = str(backend.get("error_message") or backend.get("readable_state") or "disconnected").strip()
    what = f"Label Studio can't reach this backend: {said[:400].rstrip('.')}."
    remedy = f"In the project's Settings → Model, check the URL ({_without_password(url)}) and the password"
    if (urlsplit(url).hostname or "") in LOOPBACK:
        remedy += ". If Label Studio runs in a container, localhost is the container itself: use "
        remedy += "host.docker.internal or the name of the backend's service instead"
    return Problem("disconnected", what, remedy + ".", project.uid)


def _blocked(project: Project, url: str, blocking: Blocking) -> Problem:
    kept = "calling this backend" if blocking.models else "sending annotation events to this backend"
    what = f"Label Studio's address blocking keeps it from {kept}: {_without_password(url)} is a private address."
    return Problem("address-blocked", what, f"{_sentence(_how_to_allow(blocking))}.", project.uid)


def _how_to_allow(blocking: Blocking) -> str:
    if blocking.models and blocking.webhooks:
        return HOW_TO_ALLOW_PRIVATE
    missing = "ML_BLOCK_LOCAL_IP" if blocking.models else "SSRF_PROTECTION_ENABLED"
    return f"start Label Studio with {missing}=false as well, or with USE_DEFAULT_BANNED_SUBNETS=false alone"


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]


def _events(
    label_studio: LabelStudio,
    project: Project,
    backends: list[Json],
    hooks: list[Json],
    basic_auth: BasicAuth,
    *,
    thoroughly: bool,
) -> tuple[Problem | None, Fix | None]:
    """What keeps annotation events from arriving here."""
    # Send the password only where Label Studio already sends it, not to another model of the project.
    ours = [one for one in backends if not basic_auth or one.get("basic_auth_user") == basic_auth[0]]
    own = [hook for hook in hooks if str(hook.get("url")) in map(_webhook_of, backends)]
    active = [hook for hook in own if hook.get("is_active") and _sends_annotations(hook)]
    if thoroughly or not active:
        url = str((ours or backends)[0].get("url") or "")
        if (blocking := label_studio.blocking(url)).webhooks:
            return _blocked(project, url, blocking), None
    if not active:
        return _webhook_missing(label_studio, project, backends, ours, own, basic_auth)
    where = "In the project's Settings → Webhooks"
    mine = [hook for hook in active if str(hook.get("url")) in map(_webhook_of, ours)]
    if basic_auth and not any(map(_has_credentials, active)):
        what = "Annotation events are refused because Label Studio's webhook has no password."
        remedy = f"{where}, add a header Authorization with the value “Basic …” to it, or connect the model again with "
        remedy += "a URL like http://user:password@host:9090."
        problem = Problem("webhook-credentials", what, remedy, project.uid)
        if not mine:
            return problem, None
        headers = {**(mine[0].get("headers") or {}), "Authorization": password_header(*basic_auth)}
        return problem, _fix_hook(label_studio, problem, mine[0], "put the password on", headers=headers)
    if not any(hook.get("send_payload", True) for hook in active):
        what = "Annotation events arrive without a payload, so the backend has to read all annotations after each one."
        problem = Problem("webhook-payload", what, f"{where}, turn on “Send payload”.", project.uid)
        return problem, _fix_hook(label_studio, problem, active[0], "turn on the payload of", send_payload=True)
    return None, None


def _webhook_missing(
    label_studio: LabelStudio,
    project: Project,
    backends: list[Json],
    ours: list[Json],
    own: list[Json],
    basic_auth: BasicAuth,
) -> tuple[Problem, Fix]:
    url = _webhook_of((ours or backends)[0])
    what = "Label Studio doesn't send annotation events to this backend: the project has no active webhook for them."
    remedy = (
        f"In the project's Settings → Webhooks, add one with the URL {_without_password(url)} for all actions, or "
        "reconnect the model."
    )
    problem = Problem("webhook-missing", what, remedy, project.uid)
    if own:
        on = {"is_active": True, "send_for_all_actions": True}
        return problem, _fix_hook(label_studio, problem, own[0], "turn on, for all actions,", **on)
    headers = {"Authorization": password_header(*basic_auth)} if basic_auth and ours else {}
    add = partial(label_studio.add_webhook, project.id, url, headers)
    return problem, Fix(problem, f"add the webhook {_without_password(url)}", add)


def _fix_hook(label_studio: LabelStudio, problem: Problem, hook: Json, what: str, **fields: Any) -> Fix:
    offer = f"{what} the webhook {_without_password(str(hook['url']))}"
    return Fix(problem, offer, partial(label_studio.change_webhook, hook["id"], **fields))


def _orphaned(label_studio: LabelStudio, project: Project, hook: Json) -> Fix:
    url = _without_password(str(hook["url"]))
    problem = Problem(
        "webhook-orphaned",
        f"Label Studio still sends events to {url}, which isn't a model of this project anymore.",
        "In the project's Settings → Webhooks, delete it unless something else uses it.",
        project.uid,
    )
    return Fix(problem, f"delete the webhook {url}", partial(label_studio.delete_webhook, hook["id"]))


def _more_than_one(label_studio: LabelStudio, project: Project, hooks: list[Json], backends: list[Json]) -> list[Fix]:
    """Fixes that delete all but the best of several webhooks with the same URL."""
    by_url: dict[str, list[Json]] = {}
    for hook in hooks:
        url = str(hook.get("url"))
        if url in map(_webhook_of, backends) and hook.get("is_active") and _sends_annotations(hook):
            by_url.setdefault(_without_password(url), []).append(hook)
    fixes = []
    for url, same in by_url.items():
        what = f"Label Studio has {len(same)} webhooks with the URL {url}, so it sends every event {len(same)} times."
        remedy = "In the project's Settings → Webhooks, delete all but one."
        problem = Problem("webhook-twice", what, remedy, project.uid)
        best = max(same, key=lambda hook: (_has_credentials(hook), bool(hook.get("send_payload", True))))
        for hook in same:
            if hook is not best:
                delete = partial(label_studio.delete_webhook, hook["id"])
                fixes.append(Fix(problem, f"delete one of the webhooks {url}", delete))
    return fixes


def _is_orphan(hook: Json, backends: list[Json]) -> bool:
    """Whether it looks like a webhook that Label Studio added for a model and kept when the model was removed."""
    as_made = hook.get("send_for_all_actions") and set(hook.get("headers") or {}) <= {"Authorization"}
    url = str(hook.get("url"))
    return bool(as_made) and url.endswith("/webhook") and url not in map(_webhook_of, backends)


def _webhook_of(backend: Json) -> str:
    return str(backend.get("url") or "").rstrip("/") + "/webhook"


def _sends_annotations(hook: Json) -> bool:
    return bool(hook.get("send_for_all_actions")) or "ANNOTATION_CREATED" in (hook.get("actions") or [])


def _has_credentials(hook: Json) -> bool:
    headers = hook.get("headers") or {}
    return "@" in urlsplit(str(hook.get("url"))).netloc or "authorization" in map(str.lower, headers)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
