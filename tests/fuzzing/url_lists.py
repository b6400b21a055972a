"""Lists of URLs and classes: one gives lines, each with a class or a problem, or is refused with UsersError."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from image_classifier.cli.url_list import read_lines
from image_classifier.errors import UsersError
from tests.fuzzing.target import Read, Target

LISTS = (
    "url,label\nhttps://example.com/1.jpg,cat\nhttp://h/2.png,Cat\n,dog\n",
    'class;image\n"a;b";http://h:80/1\n\nnul.txt;http://h/2\n',
    "https://user:password@example.com/ä.jpg?x=1\tcat\n",
    '"http://h/1,cat\n',
)


@contextmanager
def _open() -> Iterator[Read]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "list.csv")

        def read(data: bytes) -> None:
            file.write_bytes(data)
            try:
                lines = read_lines(file)
            except UsersError as error:
                assert str(error)
                return
            for line in lines:
                if not line.problem:
                    assert line.label
                    assert len(line.key) == 64

        yield read


def _seeds() -> Iterable[bytes]:
    for text in LISTS:
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "latin-1"):
            yield text.encode(encoding)


WORDS = ("http://", "https://", "[::1]", "xn--", "image_url", "label", "class", "\ufeff", "%00", "@", "con", "..")
TARGET = Target(_open, _seeds, WORDS, longest=2_048)
