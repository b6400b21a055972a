"""Settings, networks and fetched images: one of each per process.

Label Studio's stock server creates models without our arguments, so these can't be passed in.
"""

from functools import lru_cache
from threading import Lock

from pydantic import ValidationError

from image_classifier.settings import ClassifierSettings
from image_classifier.shared_networks import SharedNetworks
from my_backend.errors import BackendError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import Media, media_pool, open_media
from my_backend.settings import Settings, explain

_making = Lock()


@lru_cache(maxsize=1)
def settings() -> ClassifierSettings:
    """The classifier's settings; raises BackendError if one is invalid."""
    try:
        return ClassifierSettings()
    except ValidationError as error:
        raise BackendError(explain(error)) from None


def networks() -> SharedNetworks:
    """The networks of all models, and the lane that they compute in."""
    with _making:  # requests may be concurrent
        return _make_networks()


def cache_lookups() -> dict[str, int]:
    """How many embeddings this process found in its cache (`hit`), and how many it didn't (`miss`)."""
    return networks().lookups if _make_networks.cache_info().currsize else {}


@lru_cache(maxsize=1)
def default_media() -> Media:
    """Fetches images with the environment's settings."""
    backend = Settings()
    return open_media(backend, Connections(backend), None, media_pool())


@lru_cache(maxsize=1)
def _make_networks() -> SharedNetworks:
    return SharedNetworks(settings())
