"""Reads how a project in Label Studio is connected to this backend."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from my_backend.label_studio.client import Blocking
from my_backend.label_studio.snapshot import Snapshot

CONNECTED = ("CO", "TR", "PR")  # states of a model that responds, in Label Studio
PRIVATE_EXAMPLE = "http://127.0.0.1:9090"  # address blocking refuses all private addresses or none

Json = dict[str, Any]


@dataclass(frozen=True)
class ProjectConnection:
    """What Label Studio says about one project, its models and its webhooks."""

    project: Json
    backends: tuple[Json, ...] = ()  # the project's models; Label Studio asks the first one
    webhooks: tuple[Json, ...] = ()
    user: str | None = None  # whom callers must name; None if no password is required
    blocking: Blocking | None = None  # what address blocking refuses at `address`; None if that wasn't tried

    @property
    def connected(self) -> bool:
        """Whether a model responds: Label Studio has just called each one to find out its state."""
        return any(backend.get("state") in CONNECTED for backend in self.backends)

    @property
    def own_backends(self) -> tuple[Json, ...]:
        """The models that Label Studio calls with our user name; all if no password is required."""
        return tuple(one for one in self.backends if self.user in (None, one.get("basic_auth_user")))

    @property
    def address(self) -> str:
        """The URL at which Label Studio calls this backend, as far as known."""
        backends = (self.connected and self.own_backends) or self.backends
        return str(backends[0].get("url") or "") if backends else PRIVATE_EXAMPLE

    @property
    def event_webhooks(self) -> tuple[Json, ...]:
        """The webhooks that send annotation events to the project's models."""
        return tuple(one for one in self.webhooks_of(self.backends) if sends_events(one))

    def webhooks_of(self, backends: Iterable[Json]) -> tuple[Json, ...]:
        """The webhooks of these models, active or not."""
        urls = [webhook_url(backend) for backend in backends]
        return tuple(one for one in self.webhooks if str(one.get("url")) in urls)


def read_connection(
    snapshot: Snapshot, basic_auth: tuple[str, str] | None, *, thoroughly: bool = False
) -> ProjectConnection:
    """Reads the project, its models and its webhooks; raises LabelStudioError.

    If something is wrong, or if `thoroughly`, it also tests whether address blocking is the reason. Each such test
    leaves a line about a refused request in Label Studio's log.
    """
    user = basic_auth[0] if basic_auth else None
    found = ProjectConnection(snapshot.project(), tuple(snapshot.backends()), tuple(snapshot.webhooks()), user)
    if thoroughly or not found.connected or not found.event_webhooks:
        return replace(found, blocking=snapshot.label_studio.blocking(found.address))
    return found


def webhook_url(backend: Json) -> str:
    """The URL of the webhook that Label Studio adds for a model."""
    return str(backend.get("url") or "").rstrip("/") + "/webhook"


def sends_events(webhook: Json) -> bool:
    """Whether the webhook sends annotation events."""
    actions = webhook.get("actions") or []
    return bool(webhook.get("is_active")) and (
        bool(webhook.get("send_for_all_actions")) or "ANNOTATION_CREATED" in actions
    )


def sends_credentials(webhook: Json) -> bool:
    """Whether the webhook sends any user name and password."""
    headers = webhook.get("headers") or {}
    return "@" in urlsplit(str(webhook.get("url"))).netloc or "authorization" in map(str.lower, headers)


def without_password(url: str) -> str:
    """The URL without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
