"""Calls back to Label Studio: tokens and annotated tasks."""

import json
import logging
import posixpath
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import jwt
import requests

from my_backend.errors import LabelStudioError, TokenRefused
from my_backend.label_studio.safe_http import Limits, Origin, SafeSession, explain, read_body, redact
from my_backend.pasted_values import TOKEN
from my_backend.projects.registry import Credentials
from my_backend.settings import Settings

log = logging.getLogger(__name__)

EXPORT_SECONDS = 300.0
EXPORT_BYTES = 2_000_000_000
ANSWER_BYTES = 50_000_000
# Label Studio's access tokens live for 300 s; one that is about to end is not used any more.
TOKEN_MARGIN = 30.0

HOW_TO_MAKE_A_TOKEN = (
    "make a personal access token in Label Studio (your avatar → Account & Settings → Personal Access Token) "
    "and set LABEL_STUDIO_API_KEY to it"
)
HOW_TO_ALLOW_PRIVATE = (
    "start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false, or with both ML_BLOCK_LOCAL_IP=false and "
    "SSRF_PROTECTION_ENABLED=false"
)
BLOCKED = b"reserved network address"  # what Label Studio answers where it refuses an address


@dataclass(frozen=True)
class Token:
    """Of what kind it is ("" for none), and until when it is valid (seconds since 1970)."""

    kind: str
    expires: float


@dataclass(frozen=True)
class Blocking:
    """What Label Studio's address blocking keeps it from calling."""

    models: bool
    webhooks: bool

    def __bool__(self) -> bool:
        return self.models or self.webhooks


class LabelStudio:
    """One Label Studio and the token for it, which goes to its origin and nowhere else."""

    def __init__(self, url: str, token: str, session: SafeSession) -> None:
        self.url = url.rstrip("/")
        self.origin = Origin.of(url)
        self._token = token
        self._session = session
        self._lock = threading.Lock()
        self._access_token, self._expires = "", 0.0

    def headers(self) -> Mapping[str, str]:
        """The authorization header; a personal access token is exchanged for an access token, which is kept.

        Raises LabelStudioError.
        """
        if not self._token:
            return {}
        if not TOKEN.fullmatch(self._token):  # as an older release has kept it
            raise TokenRefused(
                f"The token for {redact(self.url)} has a character that no header can carry; {HOW_TO_MAKE_A_TOKEN}"
            )
        claims = _claims(self._token)
        if claims is None:
            return {"Authorization": f"Token {self._token}"}
        if claims.get("token_type") != "refresh":
            return {"Authorization": f"Bearer {self._token}"}
        with self._lock:
            if time.time() > self._expires - TOKEN_MARGIN:
                answer = self._object("POST", "/api/token/refresh/", authorize=False, json={"refresh": self._token})
                if not TOKEN.fullmatch(str(answer.get("access") or " ")):
                    raise LabelStudioError(f"{redact(self.url)} gave no access token: is it a Label Studio?")
                self._access_token = str(answer["access"])
                self._expires = float((_claims(self._access_token) or {}).get("exp", 0))
            return {"Authorization": f"Bearer {self._access_token}"}

    def annotated_tasks(self, project_id: int) -> list[dict[str, Any]]:
        """All tasks of the project that have an annotation, skipped ones too, each with its annotations.

        Raises LabelStudioError.
        """
        path = f"/api/projects/{project_id}/export?exportType=JSON"
        tasks = self.call("GET", path, read_seconds=EXPORT_SECONDS, max_bytes=EXPORT_BYTES)
        if not isinstance(tasks, list):
            raise LabelStudioError(f"{redact(self.url + path)} answered no list of tasks")
        return tasks

    def watermark(self, project_id: int) -> str:
        """A text that changes whenever an annotation of the project does; cheap. Raises LabelStudioError.

        Label Studio counts stored predictions as updates of the task too: those of tasks without an annotation are
        left out.
        """
        annotated = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
        filters = {"conjunction": "and", "items": [annotated]}
        query = quote(json.dumps({"filters": filters, "ordering": ["-tasks:updated_at"]}))
        page = self._object("GET", f"/api/tasks/?project={project_id}&page=1&page_size=1&query={query}")
        newest = [task.get("updated_at") for task in page.get("tasks", [])]
        return json.dumps([newest, page.get("total"), page.get("total_annotations")])

    def project(self, project_id: int) -> dict[str, Any]:
        """The project's settings, its labeling config among them; raises LabelStudioError."""
        return self._object("GET", f"/api/projects/{project_id}/")

    def change_project(self, project_id: int, **fields: Any) -> None:
        """Changes settings of the project; raises LabelStudioError."""
        self._object("PATCH", f"/api/projects/{project_id}/", json=fields)

    def projects(self, count: int) -> list[dict[str, Any]]:
        """The newest projects that the token's owner may see; raises LabelStudioError."""
        return list(self._object("GET", f"/api/projects/?page=1&page_size={count}&ordering=-id").get("results", []))

    def tasks(self, project_id: int, count: int) -> list[dict[str, Any]]:
        """Some tasks of the project, the oldest and the newest, each with its `data`; raises LabelStudioError."""
        found: dict[Any, dict[str, Any]] = {}
        for ordering in ("tasks:id", "-tasks:id"):
            query = quote(json.dumps({"ordering": [ordering]}))
            path = f"/api/tasks/?project={project_id}&page=1&page_size={count}&query={query}"
            found |= {task.get("id"): task for task in self._object("GET", path).get("tasks", [])}
        return list(found.values())

    def release(self) -> str:
        """Its version, as in 1.23.2; needs no token. Raises LabelStudioError."""
        return str(self._object("GET", "/api/version/", authorize=False).get("release") or "")

    def seconds_ahead(self) -> float:
        """By how much Label Studio's clock is ahead of ours, to a second or so; raises LabelStudioError."""
        response, _ = self._ask("GET", "/api/version/", authorize=False)
        said = response.headers.get("Date")
        return parsedate_to_datetime(said).timestamp() - time.time() if said else 0.0

    def token(self) -> Token:
        """What the token says of itself; nobody is asked."""
        claims = _claims(self._token) if self._token else None
        if claims is None:
            return Token("legacy token" if self._token else "", float("inf"))
        kind = "personal access token" if claims.get("token_type") == "refresh" else "access token"
        return Token(kind, float(claims.get("exp", "inf")))

    def backends(self, project_id: int) -> list[dict[str, Any]]:
        """The models that are connected to the project; Label Studio calls each to know its state.

        Raises LabelStudioError.
        """
        return self._list(f"/api/ml/?project={project_id}")

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The project's webhooks, with their headers; raises LabelStudioError."""
        return self._list(f"/api/webhooks/?project={project_id}")

    def add_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> None:
        """As Label Studio makes one when a model is connected: all actions, with payload; raises LabelStudioError."""
        hook = {"project": project_id, "url": url, "send_payload": True, "send_for_all_actions": True}
        self._object("POST", "/api/webhooks/", json={**hook, "headers": dict(headers)})

    def change_webhook(self, webhook_id: int, **fields: Any) -> None:
        """For example `headers`, what Label Studio sends along with each event; raises LabelStudioError."""
        self._object("PATCH", f"/api/webhooks/{webhook_id}/", json=fields)

    def delete_webhook(self, webhook_id: int) -> None:
        """Raises LabelStudioError."""
        self.call("DELETE", f"/api/webhooks/{webhook_id}/")

    def rename_backend(self, backend: Mapping[str, Any], title: str) -> None:
        """Gives a connected model, as `backends` describes it, another title; raises LabelStudioError.

        Label Studio calls it to try the connection, and moves the project's `model_version` along where that was the
        old title.
        """
        # It tries the connection with what is sent, not with what it has; an empty password means the one it has.
        fields = {"title": title, "url": backend["url"], "project": backend["project"]}
        if backend.get("auth_method") == "BASIC_AUTH":
            user = backend.get("basic_auth_user")
            fields |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": ""}
        self._object("PATCH", f"/api/ml/{backend['id']}", json=fields)

    def blocking(self, url: str) -> Blocking:
        """Whether it would refuse a model at `url`, and its webhook; raises LabelStudioError.

        Nothing is made: both requests ask for something else that no Label Studio knows.
        """
        model = {"url": url, "auth_method": "none that there is"}
        hook = {"url": f"{url.rstrip('/')}/webhook", "actions": ["NONE_THAT_THERE_IS"]}
        return Blocking(self._is_blocked("/api/ml/", model), self._is_blocked("/api/webhooks/", hook))

    def _is_blocked(self, path: str, body: dict[str, Any]) -> bool:
        response, answer = self._send("POST", path, json=body)
        return not response.ok and BLOCKED in answer

    def permissions(self) -> frozenset[str] | None:
        """What the token's owner may do, as in `webhooks.change`; None where Label Studio does not say.

        Raises LabelStudioError.
        """
        told = self._object("GET", "/api/current-user/whoami").get("permissions")
        return frozenset(map(str, told)) if isinstance(told, list) else None

    def predicted_versions(self, project_id: int) -> list[str]:
        """The versions of which the project has stored predictions; raises LabelStudioError."""
        return list(self._object("GET", f"/api/projects/{project_id}/model-versions/"))

    def get(self, url: str, limits: Limits, deadline: float) -> requests.Response:
        """Any URL, with the token where it is Label Studio's own; raises requests.RequestException.

        But none of Label Studio's API: who names an image must not act in the name of the token's owner.
        """
        return self._session.request(
            "GET",
            url,
            headers=self.headers,
            headers_for=self.origin,
            refuse=self._why_no_file,
            limits=limits,
            deadline=deadline,
        )

    def _why_no_file(self, url: str) -> str:
        path = posixpath.normpath("/" + unquote(urlsplit(url).path).lstrip("/"))
        below = path.removeprefix(urlsplit(self.url).path)
        is_api = Origin.of(url) == self.origin and (below == "/api" or below.startswith("/api/"))
        return "it is no file but Label Studio's API, which no task may ask" if is_api else ""

    def _object(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer = self.call(method, path, **arguments)
        if not isinstance(answer, dict):
            raise LabelStudioError(f"{redact(self.url + path)} answered no JSON object: is it a Label Studio?")
        return answer

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self.call("GET", path)
        if not isinstance(answer, list):
            raise LabelStudioError(f"{redact(self.url + path)} answered no list")
        return [one for one in answer if isinstance(one, dict)]

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """What the API answers, as JSON; None for an empty answer to DELETE. Raises LabelStudioError."""
        _, body = self._ask(method, path, **arguments)
        try:
            return json.loads(body) if body or method != "DELETE" else None
        except ValueError as error:
            raise LabelStudioError(f"{redact(self.url)} answered no JSON: is it a Label Studio?") from error

    def _ask(self, method: str, path: str, **arguments: Any) -> tuple[requests.Response, bytes]:
        response, body = self._send(method, path, **arguments)
        if BLOCKED in body and not response.ok:
            raise LabelStudioError(f"Label Studio refuses addresses on private networks: {HOW_TO_ALLOW_PRIVATE}")
        if response.status_code == 403 and method != "GET" and self._token:
            raise LabelStudioError(
                f"Label Studio does not let the token's owner change this (it answered 403 to {method} "
                f"{path.partition('?')[0]}): set LABEL_STUDIO_API_KEY to the token of somebody who may change the "
                "project's settings"
            )
        if response.status_code in (401, 403):
            raise TokenRefused(self._refused(response.status_code, body))
        if not response.ok:
            why = self._why_not_found(path) if response.status_code == 404 else ""
            asked = f"{method} {path.partition('?')[0]}"
            raise LabelStudioError(f"Label Studio answered {response.status_code} to {asked}{why}")
        return response, body

    def _why_not_found(self, path: str) -> str:
        if "project" in path:
            return ": it has no such project, or the token's owner may not see it"
        return f": is what answers at {redact(self.url)} a Label Studio?"

    def _send(
        self,
        method: str,
        path: str,
        *,
        authorize: bool = True,
        read_seconds: float = 20.0,
        max_bytes: int = ANSWER_BYTES,
        **arguments: Any,
    ) -> tuple[requests.Response, bytes]:
        """Whatever the answer's status is."""
        try:
            response = self._session.request(
                method,
                self.url + path,
                headers=self.headers if authorize else None,
                headers_for=self.origin,
                limits=Limits(read_seconds=read_seconds),
                **arguments,
            )
            return response, read_body(response, max_bytes=max_bytes, deadline=time.monotonic() + read_seconds)
        except requests.RequestException as error:
            raise LabelStudioError(
                f"Label Studio cannot be reached at {redact(self.url)} ({explain(error)}); "
                "set LABEL_STUDIO_URL to its address as seen from here"
            ) from error

    def _refused(self, status: int, body: bytes) -> str:
        if not self._token:
            return f"Label Studio wants a token (it answered {status}); {HOW_TO_MAKE_A_TOKEN}"
        if b"legacy token authentication has been disabled" in body:
            return (
                "Label Studio does not accept the legacy token: legacy tokens are disabled in this organization; "
                + HOW_TO_MAKE_A_TOKEN
            )
        return f"Label Studio does not accept the token (it answered {status}); {HOW_TO_MAKE_A_TOKEN}"


def find_label_studio(settings: Settings, credentials: Credentials | None) -> LabelStudio | None:
    """The configured Label Studio, else the one that `/setup` named, with the token that came with it."""
    url, key = settings.label_studio_url, settings.label_studio_api_key.get_secret_value()
    if not (url and key) and credentials and _is_at(credentials.hostname, url):
        url, key = credentials.hostname, credentials.access_token
    if not url:
        return None
    # Images may come from Label Studio itself, even where that is a private address.
    origin = Origin.of(url)
    allowed = (*settings.image_hosts, f"{origin.host}:{origin.port}")
    return LabelStudio(url, key, SafeSession(allowed, ca_bundle=settings.requests_ca_bundle))


def _is_at(hostname: str, url: str) -> bool:
    """Whether what `/setup` named is an address, and that one where one is configured."""
    try:
        return Origin.of(hostname) == Origin.of(url or hostname)
    except ValueError:
        return False


def _claims(token: str) -> dict[str, Any] | None:
    """What a JSON web token says of itself, unverified; None for a legacy token."""
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return claims
