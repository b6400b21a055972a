"""Decodes a large image four times in two threads; prints by how many bytes the process's own memory grew.

In a process of its own, in which no memory is left over: `python -m tests.image_classifier.memory_left FILE WANTED`
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from image_classifier.data.preprocessing import open_image
from tests.image_classifier.decoding_memory import kb


def main(file: Path, wanted: int) -> None:
    before = kb("RssAnon")
    with ThreadPoolExecutor(2) as threads:
        # The small results stay, between the blocks that the large images had.
        results = list(threads.map(lambda _: open_image(file, wanted), range(4)))
    print(1024 * (kb("RssAnon") - before), len(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
