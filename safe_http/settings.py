"""The settings of programs that fetch images; each gets them from its own environment."""

from typing import Annotated

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from safe_http.https_proxy import HttpsProxy
from safe_http.session import Limits, SafeSession

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class FetchSettings(BaseModel):
    """Which hosts images may come from, through which proxy, and within which limits. A base of settings classes."""

    image_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="private hosts from which images may be fetched, comma-separated"
    )
    max_image_bytes: PositiveInt = Field(100_000_000, description="largest image to fetch, in bytes")
    image_connect_seconds: PositiveFloat = Field(
        5.0, description="time limit for connecting to an image server, in seconds"
    )
    image_read_seconds: PositiveFloat = Field(
        20.0, description="longest wait for the next bytes of an image, in seconds"
    )
    image_seconds: PositiveFloat = Field(
        30.0, description="time limit for fetching an image, including redirects, in seconds"
    )
    image_redirects: Annotated[int, Field(ge=0)] = Field(5, description="number of redirects to follow for an image")
    https_proxy: SecretStr = Field(
        SecretStr(""), description="http://[user:password@]host:port; proxy for HTTPS connections to public hosts"
    )
    no_proxy: str = Field("", description="hosts and domains to connect to without HTTPS_PROXY, comma-separated")
    requests_ca_bundle: str = Field("", description="file with the CA certificates for your HTTPS hosts")

    @field_validator("image_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return (
            tuple(part.strip().lower() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("image_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Rejects what no host would ever match: URLs, ranges of addresses, patterns, and names without commas."""
        if any({"/", "*", " "} & set(host) or host.startswith(".") for host in value):
            raise ValueError(
                "must be host names or addresses, such as minio or minio:9000, separated by commas: not URLs, ranges "
                "or patterns"
            )
        return value

    def open_session(self, *allowed: str) -> SafeSession:
        """A session for these hosts and this proxy; hosts in `allowed` may be private, too."""
        url = self.https_proxy.get_secret_value()
        proxy = HttpsProxy(url, self.no_proxy) if url else None
        return SafeSession((*self.image_hosts, *allowed), ca_bundle=self.requests_ca_bundle, proxy=proxy)

    @property
    def limits(self) -> Limits:
        """The limits of one request for an image."""
        return Limits(self.image_connect_seconds, self.image_read_seconds, self.image_redirects)
