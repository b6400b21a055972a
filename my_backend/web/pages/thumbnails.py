"""Pictures of images in the media cache, small or large: always decoded and re-encoded, never the original file."""

import re
import threading
from collections import OrderedDict

from my_backend.backend import Backend
from my_backend.errors import NotFound, Unavailable
from my_backend.projects.project import Project
from safe_http.redaction import said

AT_ONCE = 2  # decoding a large image takes much memory
REMEMBERED = 2000  # a few KB each
_DIGEST = re.compile("[0-9a-f]{64}")


class Thumbnails:
    """Thumbnails made by the model class, which can read images; recent ones are cached in memory."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._decoding = threading.Semaphore(AT_ONCE)

    def get(self, project: Project, digest: str) -> bytes:
        """A small JPEG; raises NotFound if the image isn't cached, Unavailable while the model class is loading."""
        with self._lock:
            if digest in self._made:
                self._made.move_to_end(digest)
                return self._made[digest]
        small = self._make(project, digest, large=False)
        with self._lock:
            self._made[digest] = small
            if len(self._made) > REMEMBERED:
                self._made.popitem(last=False)
        return small

    def large(self, project: Project, digest: str) -> bytes:
        """A JPEG that is large enough to label the image; otherwise like `get`. Only browsers cache it."""
        return self._make(project, digest, large=True)

    def _make(self, project: Project, digest: str, *, large: bool) -> bytes:
        image = self._backend.open_media(project).content(digest) if _DIGEST.fullmatch(digest) else None
        if image is None:
            raise NotFound("the image is no longer in the cache")
        model_class = self._backend.serving.model_class
        if model_class is None:
            raise Unavailable("the model class isn't loaded yet")
        try:
            with self._decoding:
                return bytes(model_class.picture(image) if large else model_class.thumbnail(image))
        except ValueError as error:
            raise NotFound(f"can't read the image: {said(error)}") from None
