"""A first guess from the texts of choices: what it predicts, for which choices, and what is kept on disk."""

import logging
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from image_classifier.first_guess import text_guess
from image_classifier.first_guess.guess import calibrated, is_guess
from image_classifier.first_guess.text_guess import LONGEST, MOST, TEXTS, ChoiceTexts, guess_from_texts
from image_classifier.nets.classifier import Backbone
from image_classifier.nets.open_clip_networks import TextEncoder
from image_classifier.nets.weights import WeightsError

SCALE = 10.0
KNOWN = {"dog": 0, "puppy": 0, "golden retriever": 0, "cat": 1, "zebra": 2}


class Encoder(TextEncoder):
    """Knows a few words; each thing has a direction of its own, and unknown words share another."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__("open_clip:fake", None)
        self.asked: list[list[str]] = []
        self.fails = fails

    def __call__(self, names: Sequence[str]) -> Tensor:
        self.asked.append(list(names))
        if self.fails:
            raise WeightsError("there is no tokenizer")
        return SCALE * torch.eye(4)[[KNOWN.get(name, 3) for name in names]]


def texts_in(folder: Path, encoder: Encoder, fingerprint: str = "abc") -> ChoiceTexts:
    return ChoiceTexts(encoder, fingerprint, folder / "texts")


IMAGES = torch.tensor([[5.0, 1, 0, 0, 9, 9], [0, 2.0, 0.5, 0, 0, -9], [0, 0.1, 1.0, 0, 3, 3]])  # and means of stages
NAMES = {"Dog": ["dog"], "Cat": ["cat"], "Zebra": ["zebra"]}


def test_choice_gets_the_logit_of_its_text(backbone: Backbone, tmp_path: Path) -> None:
    guess = guess_from_texts(backbone, texts_in(tmp_path, Encoder()), NAMES)

    assert guess is not None
    assert is_guess(guess)
    assert guess.classes == ("Dog", "Cat", "Zebra")
    cosines = IMAGES[:, :3] / IMAGES[:, :4].norm(dim=1, keepdim=True)
    torch.testing.assert_close(guess.head(IMAGES), SCALE * cosines)
    cooler = guess_from_texts(backbone, texts_in(tmp_path, Encoder()), NAMES, temperature=2.0)
    assert cooler is not None
    torch.testing.assert_close(cooler.head(IMAGES), SCALE / 2 * cosines)


def test_labels_calibrate_the_guess(backbone: Backbone, tmp_path: Path) -> None:
    guess = guess_from_texts(backbone, texts_in(tmp_path, Encoder()), NAMES)
    assert guess is not None
    images, labels = IMAGES.repeat(10, 1), ["Dog", "Cat", "Zebra"] * 10

    kept = calibrated(guess, images, labels, list(map(str, range(30))), brier=2.0)

    assert kept is not None
    assert kept.head.temperature != guess.head.temperature
    assert is_guess(kept)
    assert calibrated(guess, images, labels, list(map(str, range(30))), brier=0.0) is None


def test_all_texts_of_a_choice_count_alike_and_an_alias_is_none(backbone: Backbone, tmp_path: Path) -> None:
    encoder = Encoder()
    names = {
        "cls_1": ["cls_1", "golden_retriever", "  dog ", "dog", "thing"],
        "Cat": ["cat", "cat", "dog"],
        "long": ["x" * 9999],
        "many": ["0", *map(str, range(900))],
    }

    guess = guess_from_texts(backbone, texts_in(tmp_path, encoder), names)

    assert guess is not None
    retriever = ["golden retriever", "dog", "thing"]
    assert encoder.asked == [[*retriever, "cat", "dog", "x" * LONGEST, *map(str, range(TEXTS))]]
    weight = guess.head.weight / SCALE
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(weight[0], torch.tensor([2.0, 0, 0, 1]) / 5**0.5)
    torch.testing.assert_close(weight[1], torch.tensor([1.0, 1, 0, 0]) / 2**0.5)


@pytest.mark.parametrize("count", [0, 1, MOST + 1])
def test_too_few_or_too_many_choices_are_not_guessed(backbone: Backbone, count: int, tmp_path: Path) -> None:
    encoder = Encoder()
    names = {str(number): ["dog"] for number in range(count)}
    assert guess_from_texts(backbone, texts_in(tmp_path, encoder), names) is None
    assert encoder.asked == []


def test_vectors_are_computed_once_for_all_processes(tmp_path: Path) -> None:
    first = texts_in(tmp_path, Encoder()).vectors(NAMES)
    again = Encoder(fails=True)
    known = texts_in(tmp_path, again).vectors(NAMES)

    assert first is not None
    assert known is not None
    assert torch.equal(first, known)
    assert again.asked == []
    [file] = (tmp_path / "texts").iterdir()
    assert file.parent.stat().st_mode & 0o077 == 0

    others = Encoder()
    texts_in(tmp_path, others).vectors({**NAMES, "Dog": ["puppy"]})
    texts_in(tmp_path, others, "another network").vectors(NAMES)
    assert len(others.asked) == 2


def test_damaged_file_is_written_again(tmp_path: Path) -> None:
    texts_in(tmp_path, Encoder()).vectors(NAMES)
    [file] = (tmp_path / "texts").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-9], b"no file"):
        file.write_bytes(damaged)
        encoder = Encoder()
        assert texts_in(tmp_path, encoder).vectors(NAMES) is not None
        assert len(encoder.asked) == 1
        assert file.read_bytes() == whole


def test_unwritable_folder_only_costs_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "texts").write_text("a file")
    encoder = Encoder()
    texts = texts_in(tmp_path, encoder)
    assert texts.vectors(NAMES) is not None
    assert texts.vectors(NAMES) is not None
    assert len(encoder.asked) == 1
    assert "can't write" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit for the size of files")
def test_full_disk_leaves_no_part_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        assert texts_in(tmp_path, Encoder()).vectors(NAMES) is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list((tmp_path / "texts").iterdir()) == []


def test_texts_that_cannot_be_embedded_are_told_and_tried_again_later(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(fails=True)
    texts = texts_in(tmp_path, encoder)
    with caplog.at_level(logging.WARNING):
        assert guess_from_texts(backbone, texts, NAMES) is None
        assert guess_from_texts(backbone, texts, {**NAMES, "Car": ["car"]}) is None
    assert len(encoder.asked) == 1
    assert [record.message for record in caplog.records] == ["no first guesses: there is no tokenizer"]

    encoder.fails = False
    monkeypatch.setattr(text_guess, "RETRY_SECONDS", -1.0)
    assert guess_from_texts(backbone, texts, NAMES) is not None


def test_threads_share_one_computation(tmp_path: Path) -> None:
    encoder = Encoder()
    texts = texts_in(tmp_path, encoder)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: texts.vectors(NAMES), range(12)))
    assert len(encoder.asked) == 1
    assert all(one is found[0] for one in found)


def test_other_weights_of_the_text_encoder_have_other_vectors(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"first")
    before = TextEncoder("open_clip:a:b", file).identity
    assert TextEncoder("open_clip:a:b", file).identity == before
    file.write_bytes(b"second")
    assert TextEncoder("open_clip:a:b", file).identity != before
