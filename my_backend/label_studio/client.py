"""A client for Label Studio's API: tokens, projects, webhooks."""

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

import requests

from label_studio_format.pasted_values import TOKEN
from my_backend.errors import (
    AnswerTooLarge,
    LabelStudioDown,
    LabelStudioError,
    LabelStudioUnreachable,
    NotInLabelStudio,
    TokenRefused,
)
from safe_http.session import Base, Limits, Origin, SafeSession, TooLarge, explain, read_body, url_without_secrets

log = logging.getLogger(__name__)

ANSWER_BYTES = 50_000_000
# Label Studio's access tokens are valid for 300 s; one that is about to expire is no longer used.
TOKEN_MARGIN = 30.0
REFUSED_SECONDS = 30.0  # between exchanges after a rejected token: perhaps no token may read this URL

HOW_TO_MAKE_A_TOKEN = (
    "create a personal access token in Label Studio (your avatar → Account & Settings → Personal Access Token) "
    "and set LABEL_STUDIO_API_KEY to it"
)
HOW_TO_GIVE_A_TOKEN = (
    "use a valid personal access token (in Label Studio: your avatar → Account & Settings → Personal Access Token)"
)
HOW_TO_ALLOW_PRIVATE = (
    "start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false, or with both ML_BLOCK_LOCAL_IP=false and "
    "SSRF_PROTECTION_ENABLED=false"
)
BLOCKED = b"reserved network address"  # what Label Studio answers when it refuses an address


@dataclass(frozen=True)
class Token:
    """The token's kind ("" for none) and when it expires (seconds since 1970)."""

    kind: str
    expires: float


@dataclass(frozen=True)
class Blocking:
    """Which calls Label Studio's address blocking prevents."""

    models: bool
    webhooks: bool

    def __bool__(self) -> bool:
        return self.models or self.webhooks


class LabelStudio:
    """One Label Studio server and its token, which is sent only to URLs below that server's.

    `is_persons`: the token came with a request; it isn't LABEL_STUDIO_API_KEY, so changing that wouldn't help.
    """

    def __init__(self, url: str, token: str, session: SafeSession, *, is_persons: bool = False) -> None:
        self.url = url.rstrip("/")
        self.base = Base.of(url)
        self._token, self._is_persons = token, is_persons
        self._session = session
        self._lock = threading.Lock()
        self._access_token, self._expires = "", 0.0
        self._refused_until = float("-inf")  # monotonic: until then, a refused token isn't exchanged again
        self._failure: tuple[float, LabelStudioError] | None = None  # the last exchange that failed (monotonic)

    def headers(self) -> Mapping[str, str]:
        """The authorization header; a personal access token is exchanged for an access token, which is cached.

        Raises LabelStudioError.
        """
        if not self._token:
            return {}
        if not TOKEN.fullmatch(self._token):  # stored by an older release
            raise TokenRefused(
                f"The token for {url_without_secrets(self.url)} contains a character that isn't allowed in an HTTP "
                "header",
                HOW_TO_MAKE_A_TOKEN,
            )
        claims = _claims(self._token)
        if claims is None:
            return {"Authorization": f"Token {self._token}"}
        if claims.get("token_type") != "refresh":
            return {"Authorization": f"Bearer {self._token}"}
        came = time.monotonic()
        with self._lock:
            if time.time() > self._expires - TOKEN_MARGIN:
                if self._failure and self._failure[0] > came:  # while this thread waited for the lock
                    error = self._failure[1]
                    raise type(error)(error.why, error.hint)
                try:
                    self._exchange()
                except LabelStudioError as error:
                    self._failure = time.monotonic(), error
                    raise
            return {"Authorization": f"Bearer {self._access_token}"}

    def _exchange(self) -> None:
        answer = self._object("POST", "/api/token/refresh/", authorize=False, json={"refresh": self._token})
        if not TOKEN.fullmatch(str(answer.get("access") or " ")):
            raise LabelStudioDown(
                f"{url_without_secrets(self.url)} returned no access token: is it a Label Studio server?"
            )
        self._access_token = str(answer["access"])
        self._expires = _expiry(_claims(self._access_token) or {}, 0.0)

    def _request(self, method: str, url: str, **arguments: Any) -> requests.Response:
        """Sends the token; if Label Studio rejects its own access token, as after a restart, tries a new one once."""
        arguments |= {"headers": self.headers, "headers_for": self.base}
        response = self._session.request(method, url, **arguments)
        if response.status_code == 401 and self._is_outdated(response.request.headers.get("Authorization", "")):
            response.close()
            response = self._session.request(method, url, **arguments)
        return response

    def _is_outdated(self, refused: str) -> bool:
        """Whether the refused header had an access token from an exchange, and another one may be accepted."""
        with self._lock:
            if not (self._access_token and refused):
                return False
            if refused == f"Bearer {self._access_token}" and self._expires:
                if time.monotonic() < self._refused_until:
                    return False
                self._expires, self._refused_until = 0.0, time.monotonic() + REFUSED_SECONDS
            return True

    def watermark(self, project_id: int) -> str:
        """A string that changes whenever an annotation of the project changes; cheap. Raises LabelStudioError.

        Label Studio also counts a stored prediction as an update of its task, so tasks without an annotation are left
        out.
        """
        annotated = {"filter": "filter:tasks:total_annotations", "operator": "greater", "type": "Number", "value": 0}
        filters = {"conjunction": "and", "items": [annotated]}
        query = quote(json.dumps({"filters": filters, "ordering": ["-tasks:updated_at"]}))
        # With `review`, Label Studio doesn't first ask a model for a missing prediction.
        page = self._object("GET", f"/api/tasks/?project={project_id}&page=1&page_size=1&query={query}&review=true")
        newest = [task.get("updated_at") for task in page.get("tasks", [])]
        return json.dumps([newest, page.get("total"), page.get("total_annotations")])

    def project(self, project_id: int) -> dict[str, Any]:
        """The project's settings, including its labeling config; raises LabelStudioError."""
        return self._object("GET", f"/api/projects/{project_id}/")

    def change_project(self, project_id: int, **fields: Any) -> None:
        """Changes settings of the project; raises LabelStudioError."""
        self._object("PATCH", f"/api/projects/{project_id}/", json=fields)

    def projects(self, count: int) -> list[dict[str, Any]]:
        """The newest projects that the token's owner has access to; raises LabelStudioError."""
        return list(self._object("GET", f"/api/projects/?page=1&page_size={count}&ordering=-id").get("results", []))

    def release(self) -> str:
        """Label Studio's version, for example 1.23.2; needs no token. Raises LabelStudioError."""
        return str(self._object("GET", "/api/version/", authorize=False).get("release") or "")

    def seconds_ahead(self) -> float:
        """How many seconds Label Studio's clock is ahead of ours, to about a second; raises LabelStudioError."""
        response, _ = self._ask("GET", "/api/version/", authorize=False)
        said = response.headers.get("Date")
        return parsedate_to_datetime(said).timestamp() - time.time() if said else 0.0

    def token(self) -> Token:
        """The token's kind and expiry, read from the token itself; makes no request."""
        claims = _claims(self._token) if self._token else None
        if claims is None:
            return Token("legacy token" if self._token else "", float("inf"))
        kind = "personal access token" if claims.get("token_type") == "refresh" else "access token"
        return Token(kind, _expiry(claims, float("inf")))

    def backends(self, project_id: int) -> list[dict[str, Any]]:
        """The models connected to the project; Label Studio calls each of them to find out its state.

        Raises LabelStudioError.
        """
        return self._list(f"/api/ml/?project={project_id}")

    def webhooks(self, project_id: int) -> list[dict[str, Any]]:
        """The project's webhooks, with their headers; raises LabelStudioError."""
        return self._list(f"/api/webhooks/?project={project_id}")

    def add_webhook(self, project_id: int, url: str, headers: Mapping[str, str]) -> None:
        """Adds a webhook like the one Label Studio adds when a model is connected: all actions, with payload.

        Raises LabelStudioError.
        """
        hook = {"project": project_id, "url": url, "send_payload": True, "send_for_all_actions": True}
        self._object("POST", "/api/webhooks/", json={**hook, "headers": dict(headers)})

    def change_webhook(self, webhook_id: int, **fields: Any) -> None:
        """Changes fields of a webhook, for example the `headers` sent with each event; raises LabelStudioError."""
        self._object("PATCH", f"/api/webhooks/{webhook_id}/", json=fields)

    def delete_webhook(self, webhook_id: int) -> None:
        """Deletes a webhook; raises LabelStudioError."""
        self.call("DELETE", f"/api/webhooks/{webhook_id}/")

    def rename_backend(self, backend: Mapping[str, Any], title: str) -> None:
        """Changes the title of a connected model (one of `backends`); raises LabelStudioError.

        Label Studio calls the model to test the connection. If the project's `model_version` was the old title, Label
        Studio changes it too.
        """
        # It tests the connection with the fields of this request; an empty password means the stored one.
        fields = {"title": title, "url": backend["url"], "project": backend["project"]}
        if backend.get("auth_method") == "BASIC_AUTH":
            user = backend.get("basic_auth_user")
            fields |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": ""}
        self._object("PATCH", f"/api/ml/{backend['id']}", json=fields)

    def blocking(self, url: str) -> Blocking:
        """Whether Label Studio would refuse a model at `url`, and its webhook; raises LabelStudioError.

        Nothing is created: each request also contains a value that Label Studio always rejects.
        """
        model = {"url": url, "auth_method": "none that there is"}
        hook = {"url": f"{url.rstrip('/')}/webhook", "actions": ["NONE_THAT_THERE_IS"]}
        return Blocking(self._is_blocked("/api/ml/", model), self._is_blocked("/api/webhooks/", hook))

    def _is_blocked(self, path: str, body: dict[str, Any]) -> bool:
        response, answer = self._send("POST", path, json=body)
        return not response.ok and BLOCKED in answer

    def permissions(self) -> frozenset[str] | None:
        """The token owner's permissions, such as `webhooks.change`; None if Label Studio doesn't report them.

        Raises LabelStudioError.
        """
        told = self._object("GET", "/api/current-user/whoami").get("permissions")
        return frozenset(map(str, told)) if isinstance(told, list) else None

    def predicted_versions(self, project_id: int) -> list[str]:
        """The versions that the project has stored predictions of; raises LabelStudioError."""
        return list(self._object("GET", f"/api/projects/{project_id}/model-versions/"))

    def get(self, url: str, limits: Limits, deadline: float) -> requests.Response:
        """Gets any URL, with the token if it is Label Studio's own; raises requests.RequestException.

        Label Studio's API is refused: someone who sets a task's image URL must not act with the token owner's rights.
        """
        return self._request("GET", url, refuse=self._why_no_file, limits=limits, deadline=deadline)

    def _why_no_file(self, url: str) -> str:
        path = posixpath.normpath("/" + unquote(urlsplit(url).path).lstrip("/"))
        below = path.removeprefix(urlsplit(self.url).path)
        is_api = Origin.of(url) == self.base.origin and (below == "/api" or below.startswith("/api/"))
        return "the URL belongs to Label Studio's API, which tasks can't use" if is_api else ""

    def _object(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        answer = self.call(method, path, **arguments)
        if not isinstance(answer, dict):
            raise LabelStudioDown(
                f"{url_without_secrets(self.url + path)} didn't return a JSON object: is it a Label Studio server?"
            )
        return answer

    def _list(self, path: str) -> list[dict[str, Any]]:
        answer = self.call("GET", path)
        if not isinstance(answer, list):
            raise LabelStudioDown(
                f"{url_without_secrets(self.url + path)} didn't return a list: is it a Label Studio server?"
            )
        return [one for one in answer if isinstance(one, dict)]

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """The API's answer, parsed from JSON; None for an empty answer to DELETE. Raises LabelStudioError."""
        _, body = self._ask(method, path, **arguments)
        try:
            return json.loads(body) if body or method != "DELETE" else None
        except ValueError as error:
            raise LabelStudioDown(
                f"{url_without_secrets(self.url)} returned no JSON: is it a Label Studio server?"
            ) from error

    def _ask(self, method: str, path: str, **arguments: Any) -> tuple[requests.Response, bytes]:
        response, body = self._send(method, path, **arguments)
        if BLOCKED in body and not response.ok:
            raise LabelStudioError(f"Label Studio refuses addresses on private networks: {HOW_TO_ALLOW_PRIVATE}")
        if response.status_code == 403 and method != "GET" and self._token:
            raise LabelStudioError(
                f"The token's owner isn't allowed to change this in Label Studio (it answered 403 to {method} "
                f"{path.partition('?')[0]}): {'use' if self._is_persons else 'set LABEL_STUDIO_API_KEY to'} the token "
                "of someone who may change the project's settings"
            )
        if response.status_code in (401, 403):
            hint = HOW_TO_GIVE_A_TOKEN if self._is_persons else HOW_TO_MAKE_A_TOKEN
            raise TokenRefused(self._why_refused(response.status_code, body), hint)
        if not response.ok:
            said = f"Label Studio answered {response.status_code} to {method} {path.partition('?')[0]}"
            if response.status_code == 404:
                raise NotInLabelStudio(f"{said}{self._why_not_found(path)}")
            kind = LabelStudioDown if response.status_code == 429 or response.status_code >= 500 else LabelStudioError
            raise kind(said)
        return response, body

    def _why_not_found(self, path: str) -> str:
        if "project" in path:
            return ": the project doesn't exist, or the token's owner has no access to it"
        return f": is {url_without_secrets(self.url)} a Label Studio server?"

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
        """The answer whatever its status; raises LabelStudioError if there is none."""
        try:
            ask = self._request if authorize else self._session.request
            # Also for a token's exchange and for redirects.
            arguments |= {"limits": Limits(read_seconds=read_seconds), "deadline": time.monotonic() + 2 * read_seconds}
            response = ask(method, self.url + path, refuse=self._why_elsewhere, **arguments)
            return response, read_body(response, max_bytes=max_bytes, deadline=time.monotonic() + read_seconds)
        except TooLarge as error:
            raise AnswerTooLarge(
                f"Label Studio's response to {method} {path.partition('?')[0]} is too large ({error})"
            ) from error
        except requests.exceptions.ContentDecodingError as error:
            raise LabelStudioDown(
                f"Can't read Label Studio's response to {method} {path.partition('?')[0]} ({explain(error)})"
            ) from error
        except requests.RequestException as error:
            kind = LabelStudioUnreachable if isinstance(error, requests.ConnectionError) else LabelStudioDown
            raise kind(
                f"Can't reach Label Studio at {url_without_secrets(self.url)} ({explain(error)})",
                "set LABEL_STUDIO_URL to its address as seen from this backend",
            ) from error

    def _why_elsewhere(self, url: str) -> str:
        """The token isn't sent to another address, whose answer would only say that it is missing."""
        if self.base.contains(url):
            return ""
        place, api, _ = url_without_secrets(url).partition("/api/")
        if not api:
            return (
                f"it redirects to {place.partition('?')[0]}, perhaps a login page: use an address at which Label "
                "Studio's API answers"
            )
        return f"it redirects to {place}: use that address instead"

    def _why_refused(self, status: int, body: bytes) -> str:
        if not self._token:
            return f"Label Studio requires a token (it answered {status})"
        if b"legacy token authentication has been disabled" in body:
            return "Label Studio rejected the legacy token: legacy tokens are disabled in this organization"
        return f"Label Studio rejected the token (it answered {status})"


def _claims(token: str) -> dict[str, Any] | None:
    """The claims of a JSON web token, unverified; None for a legacy token."""
    import jwt

    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return None
    return claims


def _expiry(claims: Mapping[str, Any], unknown: float) -> float:
    """When a token expires (seconds since 1970); `unknown` if it doesn't say so in a way that we understand."""
    try:
        return float(claims["exp"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return unknown
