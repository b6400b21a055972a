"""Tests of the annotations sent with POST /train, which are kept until they are learned."""

from pathlib import Path

import pytest

from my_backend.projects.sent_annotations import SET_ASIDE, SentAnnotations

EARLIER, LATER = [{"id": 1, "data": {}, "annotations": []}], [{"id": 2, "data": {}, "annotations": []}]


@pytest.fixture
def sent(tmp_path: Path) -> SentAnnotations:
    annotations = SentAnnotations(tmp_path)
    annotations.keep(EARLIER)
    return annotations


def test_learned_annotations_are_forgotten_but_not_ones_that_came_since(sent: SentAnnotations) -> None:
    earlier = sent.read()
    sent.keep(LATER)

    sent.forget(earlier)
    assert sent.exist()

    sent.forget(sent.read())
    assert not sent.exist()
    assert sent.read() == ""


def test_annotations_are_set_aside_but_not_ones_that_came_since(sent: SentAnnotations, tmp_path: Path) -> None:
    earlier = sent.read()
    sent.keep(LATER)

    sent.set_aside(earlier)
    assert sent.exist()

    later = sent.read()
    sent.set_aside(later)
    assert not sent.exist()
    assert (tmp_path / SET_ASIDE).read_text() == later
