"""How to serve: the environment, read once by whoever starts a process."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from my_backend.pasted_values import check_token, check_visible, trimmed
from my_backend.redaction import basic_authorization, redact, said

ENV_FILE = Path(".env")
SECRETS_DIR = Path("/run/secrets")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
REDIS_SCHEMES = ("redis", "rediss", "unix")
SERVICE_LINK = "tcp://"  # how Kubernetes and docker --link begin the REDIS_PORT that they set for a service `redis`
UNSAID = ("LABEL_STUDIO_API_KEY", "BASIC_AUTH_USER", "BASIC_AUTH_PASS")  # whose values no message shows

_HOST = re.compile(r"[\w.-]+|\[[\w:.%]+\]")
# What people take for BASIC_AUTH_USER and BASIC_AUTH_PASS.
_MISSPELT = re.compile(r"BASIC_AUTH_(?!USER$|PASS$)(?:USER|PASS|PW|LOGIN|NAME)\w*", re.IGNORECASE)

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals, or a line of `.env`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",  # Windows' editors begin a file with a mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: Annotated[int, Field(ge=1, le=65535)] = Field(9090, description="port to listen on")
    model_dir: Path = Field(Path("data"), description="versions, jobs and projects: what to back up")
    cache_dir: Path = Field(
        Path("~/.cache/image-classifier"), description="images and embeddings; per host, never on NFS"
    )
    model_class: str = Field("model:ImageClassifierAPI", description="module:Class of the LabelStudioMLBase to serve")
    label_studio_url: str = Field("", description="where Label Studio is, as seen from here")
    label_studio_api_key: SecretStr = Field(
        SecretStr(""), description="its token (personal access token or legacy token)"
    )
    basic_auth_user: str = Field("", description="with BASIC_AUTH_PASS: what callers must present")
    basic_auth_pass: SecretStr = Field(SecretStr(""), description="the password; see BASIC_AUTH_USER")
    choices: str = Field("", description="name of the Choices tag to learn, where a labeling config has several")
    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="hosts on private networks that images may come from, comma-separated"
    )
    max_image_bytes: PositiveInt = Field(100_000_000, description="larger images are not fetched")
    image_connect_seconds: PositiveFloat = Field(5.0, description="to connect to the server of an image")
    image_read_seconds: PositiveFloat = Field(20.0, description="without a byte from it")
    image_seconds: PositiveFloat = Field(30.0, description="for an image in all, redirects included")
    image_redirects: Annotated[int, Field(ge=0)] = Field(5, description="that are followed to an image")
    image_trust_seconds: Annotated[float, Field(ge=0)] = Field(
        86_400.0, description="for which an image is not fetched from its URL again; uploads never are"
    )
    requests_ca_bundle: str = Field("", description="file of the authorities that sign your hosts' certificates")
    retrain_after_annotations: Annotated[int, Field(ge=0)] = Field(
        10, description="train after so many new or changed annotations, or 30 s after the last; 0: only by hand"
    )
    title_is_version: bool = Field(
        False, description="rename the model in Label Studio to the live version, so that scores show and order tasks"
    )
    renew_predictions: bool = Field(
        False, description="store predictions of each new version for all unlabelled tasks, in the background"
    )
    redis_url: str = Field("", description="redis://…: jobs go to RQ workers instead of the server's own process")
    redis_host: str = Field("", description="another way to say REDIS_URL")
    redis_port: Annotated[int, Field(ge=1, le=65535)] = Field(6379, description="with REDIS_HOST")
    rq_queue_name: str = Field("default", description="RQ queue; workers and servers must agree")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="what the log has, at least")
    log_format: Literal["text", "json"] = Field("text", description="`text`, or `json`: an object a line")

    log_file: Path | None = Field(None, description="a file for the log as well, rotated; the first of several writes")

    def model_post_init(self, context: Any, /) -> None:
        """From here on no text of this process has these secrets."""
        redact.know(self.secrets)

    @model_validator(mode="before")
    @classmethod
    def _trim(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A value that is blank counts as not given, as an empty one does."""
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
            raise ValueError("has a colon, which ends a user's name in HTTP: choose another name")
        return value

    @model_validator(mode="after")
    def _check_password(self) -> "Settings":
        if bool(self.basic_auth_user) is not bool(self.basic_auth_pass.get_secret_value()):
            there, missing = ("USER", "PASS") if self.basic_auth_user else ("PASS", "USER")
            raise ValueError(
                f"BASIC_AUTH_{there} is set, but BASIC_AUTH_{missing} is not, so that nothing would be protected: "
                "set both, or neither"
            )
        return self

    @field_validator("redis_port", mode="before")
    @classmethod
    def _not_of_a_service(cls, value: object) -> object:
        """Nobody has set what the name of a service next door sets."""
        is_link = isinstance(value, str) and value.startswith(SERVICE_LINK)
        return cls.model_fields["redis_port"].default if is_link else value

    @field_validator("redis_host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        if value and not _HOST.fullmatch(value):
            raise ValueError("must be a host's name or address alone; a URL goes into REDIS_URL")
        return value

    @field_validator("redis_url")
    @classmethod
    def _check_redis(cls, value: str) -> str:
        if value:
            _check_address(value, REDIS_SCHEMES, "redis://localhost:6379/0")
        return value

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip().lower() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("label_studio_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value:
            _check_address(value, ("http", "https"), "http://localhost:8080")
        return value.rstrip("/")

    @field_validator("model_dir", "cache_dir", "log_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("*", mode="before")
    @classmethod
    def _check_visible(cls, value: object) -> object:
        """Before all others, hence the last."""
        if isinstance(value, str):
            check_visible(value)
        return value

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password that callers must present."""
        password = self.basic_auth_pass.get_secret_value()
        return (self.basic_auth_user, password) if password else None

    @property
    def secrets(self) -> list[str]:
        """What no text may have."""
        password = self.basic_auth_pass.get_secret_value()
        secrets = [self.label_studio_api_key.get_secret_value(), password]
        if password:
            secrets.append(basic_authorization(self.basic_auth_user, password))
        for url in (self.redis, self.label_studio_url):
            if written := urlsplit(url).password:
                secrets += [written, unquote(written)]
        return [secret for secret in secrets if secret]

    @property
    def redis(self) -> str:
        """Redis' URL, or "" where jobs run in the server's own process."""
        return self.redis_url or (f"redis://{self.redis_host}:{self.redis_port}/0" if self.redis_host else "")

    @property
    def trusts_setup(self) -> bool:
        """Whether to believe what `/setup` says of its Label Studio: who can call is known, or local.

        Without a password the request itself must be from this machine, too: a proxy here passes on anyone's.
        """
        return self.basic_auth is not None or self.host in LOOPBACK


def read_settings() -> Settings:
    """Raises SystemExit that names each bad variable and its value's fault."""
    # Docker's secrets: a file for each setting, which the environment overrides.
    secrets = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        misspelt = _misspelt(secrets)
        settings = Settings(_secrets_dir=secrets)
    except ValidationError as error:
        raise SystemExit("\n  ".join([explain(error), *misspelt])) from None
    except (OSError, UnicodeError, SettingsError) as error:
        why = ": ".join(
            "it is no UTF-8 text; save it as UTF-8" if isinstance(one, UnicodeError) else said(one)
            for one in (error, error.__cause__)
            if one is not None
        )
        raise SystemExit(f"Settings cannot be read from .env or {SECRETS_DIR}: {why}") from None
    if misspelt and settings.basic_auth is None:
        raise SystemExit(f"Settings that cannot be used (environment or .env):\n  {misspelt[0]}")
    return settings


def explain(error: ValidationError) -> str:
    """One line for each setting that cannot be used."""
    lines = []
    for fault in error.errors():
        name = "_".join(str(part) for part in fault["loc"]).upper()
        why = fault["msg"].removeprefix("Value error, ")
        value = str(fault["input"])
        # An address may have a password that no pattern knows, and what is invisible helps nobody.
        shown = name and name not in UNSAID and "@" not in value and value.isprintable()
        lines.append((f"{name}: {why}" if name else why) + (f", but it is {fault['input']!r}" if shown else ""))
    return "Settings that cannot be used (environment or .env):\n  " + "\n  ".join(map(redact, lines))


def ignored_variables() -> str:
    """What is set and not used, and who may have set it; "" where there is none."""
    port = os.environ.get("REDIS_PORT", "")
    if not port.startswith(SERVICE_LINK):
        return ""
    return (
        f"REDIS_PORT={port[:100]} is ignored: Kubernetes sets it for a Service named redis (enableServiceLinks: false "
        "ends that), and docker for a container linked as redis (--link)"
    )


def _misspelt(secrets: Path | None) -> list[str]:
    """A line for each name of a password that is no setting, and so protects nothing; raises OSError, UnicodeError."""
    names = {*os.environ, *(path.name for path in secrets.iterdir())} if secrets else {*os.environ}
    if ENV_FILE.is_file():
        lines = ENV_FILE.read_text("utf-8-sig").splitlines()
        names |= {line.partition("=")[0].strip().removeprefix("export ").strip() for line in lines}
    wrong = sorted(filter(_MISSPELT.fullmatch, names))
    return [f"{name} is no setting: they are called BASIC_AUTH_USER and BASIC_AUTH_PASS" for name in wrong]


def _check_address(value: str, schemes: tuple[str, ...], example: str) -> None:
    """Raises ValueError where it is no URL that can be connected to."""
    begins = " or ".join(f"{scheme}://" for scheme in schemes)
    parts = urlsplit(value)
    if parts.scheme not in schemes or (parts.scheme.startswith("http") and not parts.hostname):
        raise ValueError(f"must begin with {begins}, as in {example}")
    if parts.scheme != "unix" and any(map(str.isspace, value)):
        raise ValueError("has a blank in it")
    try:
        parts.port  # noqa: B018  raises where it is none
    except ValueError:
        # As where a password has a slash: what stands before it is then taken for the host and the port.
        raise ValueError("has a port that is no number; in a password write / as %2F, @ as %40, : as %3A") from None
