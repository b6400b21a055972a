"""Small pictures of images in the media cache: decoded and encoded anew, never the file itself."""

import re
import threading
from collections import OrderedDict
from pathlib import Path

from my_backend.backend import Backend
from my_backend.errors import NotFound, Unavailable
from my_backend.projects.registry import Project
from my_backend.redaction import said

AT_ONCE = 2  # decoding a large image takes much memory
REMEMBERED = 2000  # of some KB each
_DIGEST = re.compile("[0-9a-f]{64}")


class Thumbnails:
    """Made by the model class, which can read images; the last ones are kept in memory."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._made: OrderedDict[str, bytes] = OrderedDict()
        self._decoding = threading.Semaphore(AT_ONCE)

    def get(self, project: Project, digest: str) -> bytes:
        """A JPEG; raises NotFound where the image is not at hand, Unavailable while the model class is loaded."""
        with self._lock:
            if digest in self._made:
                self._made.move_to_end(digest)
                return self._made[digest]
        image = self._backend.open_media(project).content(digest) if _DIGEST.fullmatch(digest) else None
        if image is None:
            raise NotFound("the image is not in the cache any more")
        with self._decoding:
            small = self._make(image)
        with self._lock:
            self._made[digest] = small
            if len(self._made) > REMEMBERED:
                self._made.popitem(last=False)
        return small

    def _make(self, image: Path) -> bytes:
        make = getattr(self._backend.serving.model_class, "thumbnail", None)
        if make is None:
            raise Unavailable("the model class is not loaded yet, or makes no thumbnails")
        try:
            return bytes(make(image))
        except ValueError as error:
            raise NotFound(f"the image cannot be read: {said(error)}") from None
