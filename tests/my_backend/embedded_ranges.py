"""Finished ranges of shared embeddings, as workers leave them, without embeddings in them."""

from pathlib import Path

from my_backend.projects.embeddings import Embeddings

SPACE = "a" * 32


def add_range(
    embeddings: Embeddings, number: int, through: int, images: int = 5, tasks: int = 5, space: str = SPACE
) -> Path:
    """Adds a finished range; returns its file, which contains `through`."""
    with embeddings.claimed(space, number):
        written = embeddings.new_file(space)
        written.write_text(str(through))
        embeddings.add(written, number, through, images, tasks)
    return embeddings.ranges(space)[number].path
