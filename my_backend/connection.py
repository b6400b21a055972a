"""How a project in Label Studio is connected to this backend: what is wrong with it, and what the API can mend."""

import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from my_backend.label_studio import HOW_TO_ALLOW_PRIVATE, LabelStudio
from my_backend.projects import Project
from my_backend.settings import LOOPBACK
from my_backend.troubles import Trouble
from my_backend.webhook_password import password_header

CONNECTED = ("CO", "TR", "PR")  # states of a model in Label Studio that answers

Json = dict[str, Any]
BasicAuth = tuple[str, str] | None


@dataclass(frozen=True)
class Mend:
    """What ends a trouble, through Label Studio's API."""

    trouble: Trouble
    offer: str  # what would be done, as in "add the webhook …"
    do: Callable[[], None]  # raises LabelStudioError


@dataclass(frozen=True)
class Connection:
    """What Label Studio says of one project."""

    project: Json
    connected: bool
    troubles: tuple[Trouble, ...]
    mends: tuple[Mend, ...]  # for those of the troubles that the API can mend


def examine_connection(label_studio: LabelStudio, project: Project, basic_auth: BasicAuth) -> Connection:
    """Asks for the project, its models and its webhooks; raises LabelStudioError."""
    described = label_studio.project(project.id)
    backends = label_studio.backends(project.id)
    hooks = label_studio.webhooks(project.id)
    # Label Studio has just called each model to know its state.
    connected = any(backend.get("state") in CONNECTED for backend in backends)
    orphans = [_orphaned(label_studio, project, hook) for hook in hooks if _is_orphan(hook, backends)]
    main: tuple[Trouble | None, Mend | None] = (None, None)
    if not backends:
        main = _not_connected(project), None
    elif not connected:
        main = _disconnected(project, backends[0], hooks), None
    else:
        main = _events(label_studio, project, backends, hooks, basic_auth)
    troubles = [*([main[0]] if main[0] else []), *(mend.trouble for mend in orphans)]
    mends = [*([main[1]] if main[1] else []), *orphans]
    return Connection(described, connected, tuple(troubles), tuple(mends))


def _not_connected(project: Project) -> Trouble:
    return Trouble(
        "not-connected",
        "Label Studio has no model connected to this project.",
        "Connect this backend: Settings → Model → Connect Model. Where Label Studio refuses its address as a reserved "
        f"network address, {HOW_TO_ALLOW_PRIVATE}.",
        project.uid,
    )


def _disconnected(project: Project, backend: Json, hooks: list[Json]) -> Trouble:
    url = str(backend.get("url") or "")
    if _is_private(url) and not any(hook.get("url") == _webhook_of(backend) for hook in hooks):
        # What is left when Label Studio accepts the model's address, but not the webhook's.
        what = f"Label Studio's address blocking keeps it from this backend: {_without_password(url)} is private."
        remedy = f"{HOW_TO_ALLOW_PRIVATE[0].upper()}{HOW_TO_ALLOW_PRIVATE[1:]}; then remove the model and connect anew."
        return Trouble("address-blocked", what, remedy, project.uid)
    said = str(backend.get("error_message") or backend.get("readable_state") or "disconnected").strip()
    what = f"Label Studio does not reach this backend: {said[:400].rstrip('.')}."
    remedy = (
        f"In the project's Settings → Model, look at the URL ({_without_password(url)}) and the password, and whether "
        "Label Studio may call it"
    )
    if (urlsplit(url).hostname or "") in LOOPBACK:
        remedy += "; where Label Studio runs in a container, localhost is the container itself, and this machine is "
        remedy += "host.docker.internal or the name of a service"
    if _is_private(url):
        remedy += f"; if its address blocking is on, {HOW_TO_ALLOW_PRIVATE}"
    return Trouble("disconnected", what, remedy + ".", project.uid)


def _events(
    label_studio: LabelStudio, project: Project, backends: list[Json], hooks: list[Json], basic_auth: BasicAuth
) -> tuple[Trouble | None, Mend | None]:
    """What keeps annotation events from getting here."""
    # The password goes only where Label Studio sends it already, not to another model of the project.
    ours = [one for one in backends if not basic_auth or one.get("basic_auth_user") == basic_auth[0]]
    own = [hook for hook in hooks if str(hook.get("url")) in map(_webhook_of, backends)]
    active = [hook for hook in own if hook.get("is_active") and _sends_annotations(hook)]
    if not active:
        return _webhook_missing(label_studio, project, backends, ours, own, basic_auth)
    where = "In the project's Settings → Webhooks"
    mine = [hook for hook in active if str(hook.get("url")) in map(_webhook_of, ours)]
    if basic_auth and not any(map(_has_credentials, active)):
        what = "Label Studio's events are refused, since its webhook carries no password."
        remedy = f"{where}, give it a header Authorization with the value “Basic …”, or connect the model anew with "
        remedy += "a URL like http://user:password@host:9090."
        trouble = Trouble("webhook-credentials", what, remedy, project.uid)
        if not mine:
            return trouble, None
        headers = {**(mine[0].get("headers") or {}), "Authorization": password_header(*basic_auth)}
        return trouble, _mend_hook(label_studio, trouble, mine[0], "put the password on", headers=headers)
    if not any(hook.get("send_payload", True) for hook in active):
        what = "Label Studio's events come without their payload, so that each has all annotations read anew."
        trouble = Trouble("webhook-payload", what, f"{where}, switch on “Send payload”.", project.uid)
        return trouble, _mend_hook(label_studio, trouble, active[0], "switch on the payload of", send_payload=True)
    return None, None


def _webhook_missing(
    label_studio: LabelStudio,
    project: Project,
    backends: list[Json],
    ours: list[Json],
    own: list[Json],
    basic_auth: BasicAuth,
) -> tuple[Trouble, Mend]:
    url = _webhook_of((ours or backends)[0])
    what = "Label Studio does not tell this backend of annotations: there is no active webhook for them."
    remedy = (
        "In the project's Settings → Webhooks, add one for all actions with the URL "
        f"{_without_password(url)}, or reconnect the model"
    )
    if not own and _is_private(url):
        # Where Label Studio blocks only webhooks it calls the model connected, once it has looked at it again.
        remedy += f"; where it refuses that address, {HOW_TO_ALLOW_PRIVATE}"
    trouble = Trouble("webhook-missing", what, f"{remedy}.", project.uid)
    if own:
        on = {"is_active": True, "send_for_all_actions": True}
        return trouble, _mend_hook(label_studio, trouble, own[0], "switch on, for all actions,", **on)
    headers = {"Authorization": password_header(*basic_auth)} if basic_auth and ours else {}
    add = partial(label_studio.add_webhook, project.id, url, headers)
    return trouble, Mend(trouble, f"add the webhook {_without_password(url)}", add)


def _mend_hook(label_studio: LabelStudio, trouble: Trouble, hook: Json, what: str, **fields: Any) -> Mend:
    offer = f"{what} the webhook {_without_password(str(hook['url']))}"
    return Mend(trouble, offer, partial(label_studio.change_webhook, hook["id"], **fields))


def _orphaned(label_studio: LabelStudio, project: Project, hook: Json) -> Mend:
    url = _without_password(str(hook["url"]))
    trouble = Trouble(
        "webhook-orphaned",
        f"Label Studio still sends events to {url}, which is no model of this project any more.",
        "In the project's Settings → Webhooks, delete it, unless it serves something else.",
        project.uid,
    )
    return Mend(trouble, f"delete the webhook {url}", partial(label_studio.delete_webhook, hook["id"]))


def _is_orphan(hook: Json, backends: list[Json]) -> bool:
    """Whether it looks like those that Label Studio makes for a model, and keeps when the model is removed."""
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


def _is_private(url: str) -> bool:
    """Whether the URL's host is on a private network, as far as can be told from here."""
    try:
        addresses = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return False
    return any(not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in addresses)
