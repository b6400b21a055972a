"""How to serve: the environment, read once by whoever starts a process."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from my_backend.redaction import Redactor

SECRETS_DIR = Path("/run/secrets")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Each field is the environment variable of the same name in capitals, or a line of `.env`."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

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
        if value and not (value.startswith(("http://", "https://")) and urlsplit(value).hostname):
            raise ValueError("must begin with http:// or https://, as in http://localhost:8080")
        return value.rstrip("/")

    @field_validator("model_dir", "cache_dir", "log_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password that callers must present."""
        password = self.basic_auth_pass.get_secret_value()
        return (self.basic_auth_user, password) if self.basic_auth_user or password else None

    @property
    def redis(self) -> str:
        """Redis' URL, or "" where jobs run in the server's own process."""
        return self.redis_url or (f"redis://{self.redis_host}:{self.redis_port}/0" if self.redis_host else "")

    @property
    def trusts_setup(self) -> bool:
        """Whether to believe what `/setup` says of its Label Studio: who can call is known, or local."""
        return self.basic_auth is not None or self.host in LOOPBACK


def read_settings() -> Settings:
    """Raises SystemExit that names each bad variable and its value's fault."""
    # Docker's secrets: a file for each setting, which the environment overrides.
    secrets = SECRETS_DIR if SECRETS_DIR.is_dir() else None
    try:
        return Settings(_secrets_dir=secrets)
    except ValidationError as error:
        raise SystemExit(explain(error)) from None


def explain(error: ValidationError) -> str:
    """One line for each setting that cannot be used."""
    lines = []
    for fault in error.errors():
        name = "_".join(str(part) for part in fault["loc"]).upper()
        lines.append(f"{name}: {fault['msg'].removeprefix('Value error, ')}, but it is {fault['input']!r}")
    # Where a URL has a password, its name alone must do.
    return "Settings that cannot be used (environment or .env):\n  " + "\n  ".join(map(Redactor(), lines))
