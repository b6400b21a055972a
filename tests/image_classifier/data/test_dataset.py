"""Labeled images: in order, with the right index, and the same ones held out for ever."""

import json
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from image_classifier.data.dataset import (
    FOLDS,
    ImageClassifierDataset,
    Label,
    Sample,
    folds,
    held_out,
    read_samples,
    targets_of,
    write_samples,
)
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, Preprocessing


def sample(name: object, label: Label) -> Sample:
    return Sample(ImageFile(Path(f"{name}.png"), sha256(str(name).encode()).hexdigest()), label)


def test_items_are_transformed_images_with_the_index_of_their_class(samples: list[Sample]) -> None:
    preprocess = Preprocessing(32, 32)
    images = [s.image.path if number % 2 else s.image.path.read_bytes() for number, s in enumerate(samples[:6])]
    dataset = ImageClassifierDataset(images, [s.label for s in samples[:6]], ["2", "unused", "0", "1"], preprocess)
    assert len(dataset) == 6
    items = [dataset[number] for number in range(6)]
    assert [target for _, target in items] == [2, 3, 0, 2, 3, 0]
    for (pixels, _), image in zip(items, images, strict=True):
        assert torch.equal(pixels, preprocess(image))


def test_torchs_loader_batches_it(samples: list[Sample]) -> None:
    paths, labels = [s.image.path for s in samples[:5]], [s.label for s in samples[:5]]
    loader = DataLoader(ImageClassifierDataset(paths, labels, "012", Preprocessing(16, 16)), batch_size=3)
    assert [(pixels.shape, targets.tolist()) for pixels, targets in loader] == [
        ((3, 3, 16, 16), [0, 1, 2]),
        ((2, 3, 16, 16), [0, 1]),
    ]


def test_a_label_without_a_class_is_named() -> None:
    with pytest.raises(ValueError, match="these labels aren't classes: dog, fox"):
        ImageClassifierDataset([b""] * 3, ["fox", "cat", "dog"], ["cat"], Preprocessing())


def test_labels_and_images_cannot_be_shifted_against_each_other() -> None:
    with pytest.raises(ValueError, match="3 images, but 2 labels"):
        ImageClassifierDataset([b""] * 3, ["cat"] * 2, ["cat"], Preprocessing())


def test_an_image_that_broke_says_so_when_it_is_wanted() -> None:
    dataset = ImageClassifierDataset([b"broken"], ["cat"], ["cat"], Preprocessing())
    with pytest.raises(ImageError):
        dataset[0]


def test_several_classes_of_an_image_are_zeros_and_ones() -> None:
    labels = [frozenset("ca"), frozenset[str](), frozenset("b")]
    targets = targets_of(labels, ["c", "b", "a"])
    assert targets.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert targets.is_floating_point()
    with pytest.raises(ValueError, match="these labels aren't classes: d, e"):
        targets_of([frozenset("ae"), frozenset("d")], ["a"])


# --- held out ---------------------------------------------------------------


def test_about_a_fifth_is_held_out() -> None:
    out = held_out([sample(number, "ab"[number % 2]) for number in range(5000)])
    assert 900 < sum(out) < 1100


def test_an_image_is_on_the_same_side_whatever_is_next_to_it() -> None:
    many = [sample(number, "ab"[number % 2]) for number in range(300)]
    sides = dict(zip(many, held_out(many), strict=True))
    some = list(reversed(many[::3] + many[1::3]))
    assert held_out(some) == [sides[s] for s in some]


def test_the_content_decides_not_the_name_or_the_place() -> None:
    one = [sample(number, "a") for number in range(100)]
    moved = [Sample(ImageFile(Path("elsewhere"), s.image.digest), "a", "another name") for s in one]
    assert held_out(one) == held_out(moved)


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc"), st.integers(0, 9)), max_size=40))
def test_near_duplicates_are_on_one_side_of_each_split(drawn: list[tuple[int, str, int]]) -> None:
    first = [sample(f"group {number}", "a").image.digest for number in range(10)]
    samples = [replace(sample(number, label), group=first[group]) for number, label, group in drawn]
    for sides in (held_out(samples), folds(samples)):
        together = {(one.group, side) for one, side in zip(samples, sides, strict=True)}
        assert len(together) == len({one.group for one in samples})


def test_an_image_that_resembles_another_is_on_its_side() -> None:
    samples = [sample(number, "ab"[number % 2]) for number in range(100)]
    arrived = [
        replace(sample(f"like {number}", one.label), group=one.image.digest) for number, one in enumerate(samples)
    ]
    assert held_out([*samples, *arrived]) == 2 * held_out(samples)


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=40))
def test_a_class_keeps_two_images_to_learn_from_or_all(pairs: list[tuple[int, str]]) -> None:
    samples = [sample(number, label) for number, label in pairs]
    out = held_out(samples)
    assert len(out) == len(samples)
    training = Counter(s.label for s, is_out in zip(samples, out, strict=True) if not is_out)
    for label in {s.label for s, is_out in zip(samples, out, strict=True) if is_out}:
        assert training[label] >= 2


@given(st.lists(st.tuples(st.integers(0, 60), st.frozensets(st.sampled_from("abc"))), max_size=40))
def test_of_each_of_several_classes_two_images_are_left_too(pairs: list[tuple[int, frozenset[str]]]) -> None:
    samples = [sample(number, label) for number, label in pairs]
    out = held_out(samples)
    training = Counter(name for s, is_out in zip(samples, out, strict=True) if not is_out for name in s.label)
    for name in {name for s, is_out in zip(samples, out, strict=True) if is_out for name in s.label}:
        assert training[name] >= 2


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc"), st.booleans()), min_size=1, max_size=60))
def test_folds_have_the_same_size_and_keep_an_image_together(drawn: list[tuple[int, str, bool]]) -> None:
    looked_at = {number: seen for number, _, seen in drawn}
    samples = [
        replace(sample(number, label), source="person" if looked_at[number] else "unseen") for number, label, _ in drawn
    ]
    numbers = folds(samples)
    fold_of = dict(zip((s.image.digest for s in samples), numbers, strict=True))
    assert [fold_of[s.image.digest] for s in samples] == numbers
    for evaluates in (True, False):
        counts = Counter(fold_of[digest] for digest in {s.image.digest for s in samples if s.evaluates is evaluates})
        sizes = [counts[fold] for fold in range(FOLDS)]
        assert sum(sizes) == counts.total()
        assert max(sizes) - min(sizes) <= 1


def test_folds_ignore_labels_and_hardly_change_when_images_are_added() -> None:
    """Folds with as many images of each class would make heads look better than they are on new images."""
    samples = [sample(number, "ab"[number % 2]) for number in range(200)]
    relabeled = [replace(one, label="c") for one in samples]
    assert folds(relabeled) == folds(samples)

    more = [*samples, *(sample(f"new {number}", "a") for number in range(10))]
    assert sum(old != new for old, new in zip(folds(samples), folds(more), strict=False)) <= 20
    unseen = [replace(sample(f"unseen {number}", "a"), source="unseen") for number in range(50)]
    assert folds([*samples, *unseen])[:200] == folds(samples)


def test_what_was_learned_is_kept_with_names_and_digests(tmp_path: Path) -> None:
    one = Sample(ImageFile(Path("x"), "ab" * 32), "Größe", "12")
    two = Sample(ImageFile(Path("y"), "cd" * 32), frozenset("ba"), "13")
    three = Sample(ImageFile(Path("14"), "ef" * 32), "c", "14", "val", "unseen", True, "ab" * 32, at_random=True)
    write_samples(tmp_path / "samples.json", [one, two, three])
    records = json.loads((tmp_path / "samples.json").read_text(encoding="utf-8"))
    assert records == [
        {"name": "12", "label": "Größe", "digest": "ab" * 32},
        {"name": "13", "label": ["a", "b"], "digest": "cd" * 32},
        {
            "name": "14",
            "label": "c",
            "digest": "ef" * 32,
            "part": "val",
            "source": "unseen",
            "ground_truth": True,
            "group": "ab" * 32,
            "at_random": True,
        },
    ]
    assert read_samples(tmp_path / "samples.json")[2] == three
