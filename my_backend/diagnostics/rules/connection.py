"""Problems with how a project in Label Studio is connected to this backend."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from my_backend.diagnostics.actions import AddWebhook, ChangeWebhook, DeleteWebhook
from my_backend.diagnostics.problem import Fix, Problem
from my_backend.diagnostics.rules.wording import ended, sentence
from my_backend.label_studio.client import HOW_TO_ALLOW_PRIVATE, Blocking
from my_backend.label_studio.project_connection import (
    ProjectConnection,
    sends_credentials,
    webhook_url,
    without_password,
)
from my_backend.label_studio.webhook_password import password_header
from my_backend.projects.project import Project
from my_backend.settings import LOOPBACK
from safe_http.redaction import shortened

Json = dict[str, Any]
BasicAuth = tuple[str, str] | None

WEBHOOKS = "In the project's Settings → Webhooks"


def connection_problems(project: Project, found: ProjectConnection, basic_auth: BasicAuth) -> list[Problem]:
    """What keeps the project's model or its annotation events from working, then surplus webhooks."""
    if not found.backends:
        main = [not_connected(project, found.blocking)]
    elif not found.connected:
        main = [_disconnected(project, found)]
    else:
        main = _event_problems(project, found, basic_auth)
    return [*main, *_duplicate_webhooks(project, found), *_orphaned_webhooks(project, found)]


def not_connected(project: Project, blocking: Blocking | None) -> Problem:
    """No model is connected, perhaps because address blocking prevents it."""
    message = "No model is connected to this project in Label Studio" if project.uid else "No project is connected yet"
    how = "connect this backend in the project: Settings → Model → Connect Model"
    if blocking:
        message += (
            ", and Label Studio's address blocking refuses private addresses (localhost, containers, 10.x.x.x, "
            "172.16.x.x, 192.168.x.x)."
        )
        hint = f"{sentence(f'{_how_to_allow(blocking)}; then {how}')} A public address works without this change."
        return Problem("address-blocked", message, hint, project.uid)
    return Problem("not-connected", ended(message), sentence(how), project.uid)


def no_project(blocking: Blocking | None) -> Problem:
    """No project is connected, perhaps because address blocking prevents it; None if that isn't known."""
    if blocking:
        return not_connected(Project(""), blocking)
    return Problem(
        "no-project",
        "No project is connected yet.",
        "In a Label Studio project, open Settings → Model → Connect Model and enter this backend's URL as Label Studio "
        "sees it. If Label Studio runs in a container, use host.docker.internal or the name of the "
        "backend's service, not localhost.",
    )


def _disconnected(project: Project, found: ProjectConnection) -> Problem:
    if found.blocking and found.blocking.models:
        return _blocked(project, found.address, found.blocking)
    backend, url = found.backends[0], without_password(found.address)
    said = str(backend.get("error_message") or backend.get("readable_state") or "disconnected").strip()
    hint = f"In the project's Settings → Model, check the URL ({url}) and the password."
    if (urlsplit(url).hostname or "") in LOOPBACK:
        hint += (
            " If Label Studio runs in a container, localhost is the container itself: use host.docker.internal or the "
            "name of the backend's service instead."
        )
    # It may contain the URL that Label Studio has called, with the password.
    message = ended(f"Label Studio can't reach this backend: {shortened(said, 400)}")
    return Problem("disconnected", message, hint, project.uid)


def _blocked(project: Project, url: str, blocking: Blocking) -> Problem:
    kept = "calling this backend" if blocking.models else "sending annotation events to this backend"
    message = f"Label Studio's address blocking keeps it from {kept}: {without_password(url)} is a private address."
    return Problem("address-blocked", message, sentence(_how_to_allow(blocking)), project.uid)


def _how_to_allow(blocking: Blocking) -> str:
    if blocking.models and blocking.webhooks:
        return HOW_TO_ALLOW_PRIVATE
    missing = "ML_BLOCK_LOCAL_IP" if blocking.models else "SSRF_PROTECTION_ENABLED"
    return f"start Label Studio with {missing}=false as well, or with USE_DEFAULT_BANNED_SUBNETS=false alone"


def _event_problems(project: Project, found: ProjectConnection, basic_auth: BasicAuth) -> list[Problem]:
    """What keeps annotation events from arriving here."""
    active = found.event_webhooks
    if found.blocking and found.blocking.webhooks:
        return [_blocked(project, found.address, found.blocking)]
    if not active:
        return [_webhook_missing(project, found, basic_auth)]
    if basic_auth and not any(map(sends_credentials, active)):
        return [_webhook_without_password(project, found, basic_auth)]
    if not any(webhook.get("send_payload", True) for webhook in active):
        message = (
            "Annotation events arrive without a payload, so the backend has to read all annotations after each event."
        )
        fix = _change(active[0], "turn on the payload of", {"send_payload": True})
        return [Problem("webhook-payload", message, f"{WEBHOOKS}, turn on “Send payload”.", project.uid, fixes=(fix,))]
    return []


def _webhook_missing(project: Project, found: ProjectConnection, basic_auth: BasicAuth) -> Problem:
    own = found.own_backends
    url = webhook_url((own or found.backends)[0])
    if existing := found.webhooks_of(found.backends):
        offer = f"turn on the webhook {without_password(str(existing[0]['url']))} for all actions"
        fix = Fix(offer, ChangeWebhook(existing[0]["id"], {"is_active": True, "send_for_all_actions": True}))
    else:
        # The password goes only where Label Studio already sends it, not to another model of the project.
        headers = {"Authorization": password_header(*basic_auth)} if basic_auth and own else {}
        fix = Fix(f"add the webhook {without_password(url)}", AddWebhook(project.id, url, headers))
    return Problem(
        "webhook-missing",
        "Label Studio doesn't send annotation events to this backend: the project has no active webhook for them.",
        f"{WEBHOOKS}, add a webhook for all actions with the URL {without_password(url)}, or reconnect the model.",
        project.uid,
        fixes=(fix,),
    )


def _webhook_without_password(project: Project, found: ProjectConnection, basic_auth: tuple[str, str]) -> Problem:
    own = [one for one in found.webhooks_of(found.own_backends) if one in found.event_webhooks]
    header = {"Authorization": password_header(*basic_auth)}
    fixes = [_change(one, "add the password to", {"headers": {**(one.get("headers") or {}), **header}}) for one in own]
    return Problem(
        "webhook-credentials",
        "Annotation events are refused because Label Studio's webhook has no password.",
        f"{WEBHOOKS}, add an Authorization header with the value “Basic …” to the webhook, or connect the model again "
        "with a URL like http://user:password@host:9090.",
        project.uid,
        fixes=tuple(fixes[:1]),
    )


def _change(webhook: Json, verb: str, fields: Mapping[str, Any]) -> Fix:
    return Fix(f"{verb} the webhook {without_password(str(webhook['url']))}", ChangeWebhook(webhook["id"], fields))


def _duplicate_webhooks(project: Project, found: ProjectConnection) -> Iterator[Problem]:
    """Several webhooks with the same URL; the fixes delete all but the best of them."""
    by_url: dict[str, list[Json]] = {}
    for webhook in found.event_webhooks:
        by_url.setdefault(without_password(str(webhook["url"])), []).append(webhook)
    for url, same in by_url.items():
        best = max(same, key=lambda one: (sends_credentials(one), bool(one.get("send_payload", True))))
        surplus = [DeleteWebhook(one["id"]) for one in same if one is not best]
        if surplus:
            yield Problem(
                "webhook-twice",
                f"Label Studio has {len(same)} webhooks with the URL {url}, so it sends every event {len(same)} times.",
                f"{WEBHOOKS}, delete all but one.",
                project.uid,
                fixes=tuple(Fix(f"delete one of the webhooks for {url}", action) for action in surplus),
            )


def _orphaned_webhooks(project: Project, found: ProjectConnection) -> Iterator[Problem]:
    for webhook in found.webhooks:
        if _is_orphaned(webhook, found):
            url = without_password(str(webhook["url"]))
            yield Problem(
                "webhook-orphaned",
                f"Label Studio still sends events to {url}, which no longer belongs to a model of this project.",
                f"{WEBHOOKS}, delete this webhook unless something else uses it.",
                project.uid,
                fixes=(Fix(f"delete the webhook {url}", DeleteWebhook(webhook["id"])),),
            )


def _is_orphaned(webhook: Json, found: ProjectConnection) -> bool:
    """Whether it looks like a webhook that Label Studio added for a model and kept when the model was removed."""
    as_made = webhook.get("send_for_all_actions") and set(webhook.get("headers") or {}) <= {"Authorization"}
    url = str(webhook.get("url"))
    return bool(as_made) and url.endswith("/webhook") and url not in map(webhook_url, found.backends)


def events_without_password(project: str) -> Problem:
    """Annotation events of the project, as far as known, come without the password."""
    return Problem(
        "events-without-password",
        "Label Studio doesn't send the password with annotation events, so this backend probably refuses them.",
        "Connect the backend as http://user:password@host:9090, or set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY so "
        "that the backend adds the password to its webhook automatically.",
        project,
    )
