"""The server's settings, read once from the environment when a process starts."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from label_studio_format.env_file import ENV_FILE, EnvSettings, names_in
from label_studio_format.pasted_values import check_token, check_visible, in_home, trimmed
from safe_http.redaction import basic_authorization, redact, said
from safe_http.settings import FetchSettings

SECRETS_DIR = Path("/run/secrets")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  values of HOST that name no address
LOOPBACK = ("127.0.0.1", "::1", "localhost")
REDIS_SCHEMES = ("redis", "rediss", "unix")
SERVICE_LINK = "tcp://"  # starts the REDIS_PORT that Kubernetes and docker --link set for a service named redis
# No message shows their values.
UNSAID = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_USER", "BASIC_AUTH_PASS", "HTTPS_PROXY", "NOTIFY_URL")

_FUNCTION = re.compile(r"[\w.]{1,200}:\w{1,100}")
_HOST = re.compile(r"[\w.-]+|\[[\w:.%]+\]")
# Common misspellings of BASIC_AUTH_USER and BASIC_AUTH_PASS.
_MISSPELT = re.compile(r"BASIC_AUTH_(?!USER$|PASS$)(?:USER|PASS|PW|LOGIN|NAME)\w*", re.IGNORECASE)

UNGUESSABLE = 16  # characters of a path, from which it is taken for a secret
ALIKE = 0.88  # of 1: how similar a name is that is taken for a misspelled one, such as EPOCH for EPOCHS
OF_OTHERS = {"HTTP_PROXY"}  # similar names that aren't misspelled, because other programs use them
# Other names that people try for a setting.
ALSO_CALLED = {
    "LABEL_STUDIO_ACCESS_TOKEN": "LABEL_STUDIO_API_KEY",
    "LABEL_STUDIO_API_TOKEN": "LABEL_STUDIO_API_KEY",
    "LABEL_STUDIO_TOKEN": "LABEL_STUDIO_API_KEY",
    "RETRAIN_AFTER": "RETRAIN_AFTER_ANNOTATIONS",
}


class Settings(EnvSettings, FetchSettings):
    """The server's settings."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all interfaces")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(9090, description="port to listen on")
    model_dir: Path = Field(Path("data"), description="folder for versions, jobs and projects; back it up")
    cache_dir: Path = Field(
        Path("~/.cache/image-classifier"),
        description="folder for cached images and embeddings; each host needs its own, never on NFS",
    )
    model_class: str = Field("model:ImageClassifierAPI", description="model class to serve, as module:Class")
    label_studio_url: str = Field("", description="URL at which the backend reaches Label Studio")
    label_studio_api_key: SecretStr = Field(
        SecretStr(""), description="Label Studio token (personal access token or legacy token)"
    )
    basic_auth_user: str = Field("", description="user name that callers must send; requires BASIC_AUTH_PASS")
    basic_auth_pass: SecretStr = Field(
        SecretStr(""), description="password that callers must send; requires BASIC_AUTH_USER"
    )
    choices: str = Field(
        "", description="name of the Choices or Taxonomy tag to train on if a labeling config has several"
    )
    image_trust_seconds: Annotated[float, Field(ge=0)] = Field(
        86_400.0,
        description="how long a fetched image is reused, in seconds, or longer while its server fails; uploads are "
        "reused without a limit",
    )
    retrain_after_annotations: Annotated[int, Field(ge=0)] = Field(
        10,
        description="start training after this many new or changed annotations, or 30 s after the last one; 0: only "
        "when asked",
    )
    title_is_version: bool = Field(
        False,
        description="rename the model in Label Studio to the live version, so that Label Studio shows scores and "
        "orders tasks by them",
    )
    renew_predictions: bool = Field(
        False, description="store each new version's predictions for all unlabeled tasks, in the background"
    )
    notify_url: SecretStr = Field(
        SecretStr(""),
        description="incoming webhook (Slack, Mattermost, …) for messages about training runs and problems",
    )
    page_url: str = Field(
        "",
        description="URL at which people open this backend's web pages, for links in notifications; by default from "
        "HOST and PORT",
    )
    published_hook: str = Field("", description="function to call for each published version, as module:function")
    redis_url: str = Field("", description="redis://…; runs jobs in RQ workers instead of in the server process")
    redis_host: str = Field("", description="Redis host; an alternative to REDIS_URL")
    redis_port: Annotated[int, Field(ge=1, le=65535)] = Field(6379, description="Redis port; used with REDIS_HOST")
    rq_queue_name: str = Field("default", description="name of the RQ queue; must be the same for servers and workers")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="lowest level to log")
    log_format: Literal["text", "json"] = Field("text", description="`text`, or `json` for one JSON object per line")

    log_file: Path | None = Field(
        None,
        description="also log to this file, with rotation; if several processes share it, only the first one writes",
    )

    def model_post_init(self, context: Any, /) -> None:
        """From now on, redaction removes these secrets from all texts."""
        redact.know(self.secrets)

    @model_validator(mode="before")
    @classmethod
    def _trim(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Trims values; a blank value counts as unset, like an empty one."""
        values = {name: trimmed(value) if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in values.items() if value != ""}

    @field_validator("label_studio_api_key")
    @classmethod
    def _check_token(cls, value: SecretStr) -> SecretStr:
        check_token(value.get_secret_value())
        return value

    @field_validator("basic_auth_user")
    @classmethod
    def _check_user(cls, value: str) -> str:
        if ":" in value:
            raise ValueError("contains a colon, which HTTP doesn't allow in a user name: choose another name")
        return value

    @model_validator(mode="after")
    def _check_password(self) -> "Settings":
        if bool(self.basic_auth_user) is not bool(self.basic_auth_pass.get_secret_value()):
            there, missing = ("USER", "PASS") if self.basic_auth_user else ("PASS", "USER")
            raise ValueError(
                f"BASIC_AUTH_{there} is set but BASIC_AUTH_{missing} is not, so nothing would be protected: "
                "set both or neither"
            )
        return self

    @field_validator("redis_port", mode="before")
    @classmethod
    def _not_of_a_service(cls, value: object) -> object:
        """Ignores a REDIS_PORT that Kubernetes or Docker set for a service named redis."""
        is_link = isinstance(value, str) and value.startswith(SERVICE_LINK)
        return cls.model_fields["redis_port"].default if is_link else value

    @field_validator("redis_host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        if _is_ipv6(value):
            return f"[{value}]"
        if value and not _HOST.fullmatch(value):
            raise ValueError("must be a host name or an address; a URL belongs in REDIS_URL")
        _check_host_name(value)
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis(cls, value: str) -> str:
        if value:
            _check_address(value, REDIS_SCHEMES, "redis://localhost:6379/0")
            _check_redis_options(value)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("notify_url")
    @classmethod
    def _check_notify_url(cls, value: SecretStr) -> SecretStr:
        if url := value.get_secret_value():
            _check_address(url, ("http", "https"), "https://hooks.slack.com/services/…")
        return value

    @field_validator("published_hook")
    @classmethod
    def _check_function(cls, value: str) -> str:
        if value and not _FUNCTION.fullmatch(value):
            raise ValueError("must be module:function, for example examples.mlflow_registry:register")
        return value

    @field_validator("label_studio_url", "page_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value:
            _check_address(value, ("http", "https"), "http://localhost:8080")
        return value.rstrip("/")

    @field_validator("label_studio_url")
    @classmethod
    def _check_user_info(cls, value: str) -> str:
        if "@" in urlsplit(value).netloc:
            raise ValueError(
                "contains a user name, which would be sent instead of the token: remove it and the password, and set "
                "LABEL_STUDIO_API_KEY. If a proxy in front of Label Studio requires them, use an address that "
                "bypasses the proxy"
            )
        return value

    @field_validator("model_dir", "cache_dir", "log_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and in_home(value).absolute()

    @field_validator("*", mode="before")
    @classmethod
    def _check_visible(cls, value: object) -> object:
        """Runs before all other validators because it is defined last."""
        if isinstance(value, str):
            check_visible(value)
        return value

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """The user and password that callers must send."""
        password = self.basic_auth_pass.get_secret_value()
        return (self.basic_auth_user, password) if password else None

    @property
    def secrets(self) -> list[str]:
        """Everything that must not appear in any text."""
        password = self.basic_auth_pass.get_secret_value()
        secrets = [self.label_studio_api_key.get_secret_value(), password]
        if password:
            secrets.append(basic_authorization(self.basic_auth_user, password))
        notify_url = self.notify_url.get_secret_value()
        for url in (self.redis, self.https_proxy.get_secret_value(), notify_url):
            if written := _password(url):
                secrets += [written, unquote(written)]
        if notify_url:
            # Webhooks have tokens in their paths or queries, and errors often quote only these.
            parts = urlsplit(notify_url)
            asked = (parts._replace(scheme="", netloc="").geturl(), parts.path, parts.query)
            secrets += [notify_url, *(one for one in asked if len(one) >= UNGUESSABLE)]
        return [secret for secret in secrets if secret]

    @property
    def page(self) -> str:
        """The address of the page as people open it; "" if unknown."""
        if self.page_url or self.host in EVERYWHERE:
            return self.page_url
        return self.address

    @property
    def address(self) -> str:
        """The URL of HOST and PORT, on which the server listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def redis(self) -> str:
        """The URL of Redis, or "" if jobs run in the server process."""
        return self.redis_url or (f"redis://{self.redis_host}:{self.redis_port}/0" if self.redis_host else "")

    @property
    def trusts_setup(self) -> bool:
        """Whether to trust the Label Studio that `/setup` names: callers are authenticated or local.

        Without a password, the request itself must also come from this machine, not through a proxy on it.
        """
        return self.basic_auth is not None or self.host in LOOPBACK


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
        return True
    except ValueError:
        return False


def read_settings() -> Settings:
    """Reads the settings; raises SystemExit that names each invalid variable and the reason."""
    # Docker secrets: one file per setting; the environment overrides them.
    secrets = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        misspelled = _misspelled(secrets)
        settings = Settings(_secrets_dir=secrets)
    except ValidationError as error:
        raise SystemExit("\n  ".join([explain(error), *misspelled])) from None
    except (OSError, UnicodeError, SettingsError) as error:
        why = ": ".join(
            "a file is not UTF-8 text; save it as UTF-8" if isinstance(one, UnicodeError) else said(one)
            for one in (error, error.__cause__)
            if one is not None
        )
        raise SystemExit(f"Can't read the settings from .env or {SECRETS_DIR}: {why}") from None
    if misspelled and settings.basic_auth is None:
        raise SystemExit(f"Invalid settings (environment or .env):\n  {misspelled[0]}")
    return settings


def explain(error: ValidationError) -> str:
    """A message with one line for each invalid setting."""
    lines = []
    for fault in error.errors():
        name = "_".join(str(part) for part in fault["loc"]).upper()
        why = fault["msg"].removeprefix("Value error, ")
        value = str(fault["input"])
        # A URL may contain a password that no pattern recognizes, and invisible characters help nobody.
        shown = name and name not in UNSAID and "@" not in value and value.isprintable()
        lines.append((f"{name}: {why}" if name else why) + (f" (the value is {fault['input']!r})" if shown else ""))
    return "Invalid settings (environment or .env):\n  " + "\n  ".join(map(redact, lines))


@dataclass(frozen=True)
class Shown:
    """A setting as a person may see it; `value` is "" if it isn't set."""

    name: str
    value: str
    description: str
    given: bool  # by the environment or `.env`


def settings_in_force(*groups: BaseSettings) -> list[Shown]:
    """The values of all settings, without secrets; of settings in several groups, that of the first."""
    found: dict[str, Shown] = {}
    for settings in groups:
        for field, info in type(settings).model_fields.items():
            name, value = field.upper(), getattr(settings, field)
            shown = Shown(
                name, _without_secret(name, value), info.description or "", field in settings.model_fields_set
            )
            found.setdefault(name, shown)
    return list(found.values())


def _without_secret(name: str, value: Any) -> str:
    if name in UNSAID:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return "set" if text else ""
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else "" if value is None else str(value)
    return redact(f"{name}={text}").removeprefix(f"{name}=")  # the name may say that it is a secret


def _password(url: str) -> str | None:
    try:
        return urlsplit(url if "://" in url else f"//{url}").password
    except ValueError:
        return None


def ignored_variables() -> str:
    """Says which variable is ignored, and what may have set it; "" if there is none."""
    port = os.environ.get("REDIS_PORT", "")
    if not port.startswith(SERVICE_LINK):
        return ""
    return (
        f"REDIS_PORT={port[:100]} is ignored: Kubernetes sets it for a Service named redis (enableServiceLinks: false "
        "prevents that), and Docker sets it for a container linked as redis (--link)"
    )


def misspelled_names(others: Iterable[str]) -> dict[str, str]:
    """Names in the environment and `.env` that look like a setting's name, with that name.

    `others` are the names of the model class's settings. Raises OSError, UnicodeError.
    """
    known = {name.upper() for name in Settings.model_fields} | set(others)
    found = {}
    given = _given_names(None)
    for name in sorted(given):
        near = get_close_matches(name.upper(), known, n=1, cutoff=ALIKE)
        if near and name.upper() not in known | OF_OTHERS:
            found[name] = near[0]
        elif (meant := ALSO_CALLED.get(name.upper(), "")) and meant not in map(str.upper, given):
            found[name] = meant
    return found


def _given_names(secrets: Path | None) -> set[str]:
    names = {*os.environ, *(path.name for path in secrets.iterdir())} if secrets else {*os.environ}
    return names | names_in(ENV_FILE)


def _misspelled(secrets: Path | None) -> list[str]:
    """A line for each misspelled password setting, which protects nothing; raises OSError, UnicodeError."""
    wrong = sorted(filter(_MISSPELT.fullmatch, _given_names(secrets)))
    return [f"{name} is not a setting: use BASIC_AUTH_USER and BASIC_AUTH_PASS" for name in wrong]


def _check_address(value: str, schemes: tuple[str, ...], example: str) -> None:
    """Raises ValueError unless it is a URL to which a connection is possible."""
    begins = " or ".join(f"{scheme}://" for scheme in schemes)
    parts = urlsplit(value)
    if parts.scheme not in schemes or (parts.scheme.startswith("http") and not parts.hostname):
        raise ValueError(f"must start with {begins}, for example {example}")
    if parts.scheme != "unix" and any(map(str.isspace, value)):
        raise ValueError("contains a space")
    try:
        parts.port  # noqa: B018  raises if it is invalid
    except ValueError:
        # For example, if a password contains a slash: the text before it is then taken for the host and port.
        raise ValueError("has an invalid port; in a password, write / as %2F, @ as %40 and : as %3A") from None
    _check_host_name(parts.hostname or "")


def _check_host_name(host: str) -> None:
    """Raises ValueError if no host can have this name: looking it up would raise UnicodeError, unlike other names."""
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(
            "has a host name that can't exist: each part between its dots must have 1 to 63 characters"
        ) from None


def _check_redis_options(url: str) -> None:
    """Raises ValueError if redis-py or RQ can't use an option or its value; they would fail at the first connection."""
    from redis import Redis, RedisError

    try:
        pool = Redis.from_url(url).connection_pool
        pool.make_connection()
        if pool.connection_kwargs.get("decode_responses"):
            raise ValueError("RQ needs bytes, not texts; remove decode_responses")
    except TypeError as error:
        option = said(error).partition("argument '")[2].partition("'")[0]
        raise ValueError(f"has an unknown option {option} after the ?: remove it") from None
    except (ValueError, RedisError) as error:
        raise ValueError(f"has an option that can't be used: {said(error)}") from None
