"""Exactly the images and labels of the annotations are learned."""

import base64
import json
import math
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from image_classifier.data.dataset import read_samples
from image_classifier.training import update
from my_backend.errors import MediaError, TrainingError
from my_backend.label_studio.media import Media, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects import packed_tasks
from my_backend.projects.packed_tasks import PackedTasks
from task_classifier import shared
from tests.task_classifier.digit_tasks import (
    CONFIG,
    Digits,
    Json,
    annotation,
    brighter,
    config,
    corrected,
    fit,
    labeled,
    learned_by,
    task,
)


def project(shown: Digits) -> tuple[list[Json], list[tuple[int, str]]]:
    """Tasks of every kind, among plain ones, and the ids and labels of those that say something."""
    other = annotation("0", name="quality")
    special: list[tuple[list[Json], str]] = [
        ([annotation("0", was_cancelled=True)], ""),
        ([], ""),  # its annotations were deleted
        ([annotation()], ""),
        ([annotation("1", id=1), annotation("2", id=2)], "2"),  # annotated again
        ([annotation("1", id=7, updated_at="2026-02-02"), annotation("2", id=9, updated_at="2026-01-01")], "1"),
        ([annotation("1", by=1), annotation("2", by=2), annotation("2", by=3)], "2"),
        ([annotation("1", by=1), annotation("2", by=2)], ""),  # a tie
        ([annotation("1", by=1), annotation("1", by=2), annotation("0", by=3, ground_truth=True)], "0"),
        ([annotation("1", reviews=[{"id": 1, "accepted": False}], last_action="rejected")], ""),
        ([annotation("1", by=1, last_action="rejected"), annotation("2", by=2, last_action="accepted")], "2"),
        ([annotation("7")], ""),  # no choice any more
        ([annotation("7", by=1), annotation("1", by=2)], "1"),
        ([annotation("0", by=1, was_cancelled=True), annotation("2", by=2)], "2"),
        ([other], ""),
        ([{**annotation("1"), "result": [*other["result"], *annotation("1")["result"]]}], "1"),
    ]
    images = iter(shown)
    tasks, expected = [], []
    for annotations, label in special:
        path, plain = next(images)
        tasks.append(task(len(tasks) + 1, path, annotation(plain)))
        expected.append((len(tasks), plain))
        tasks.append(task(len(tasks) + 1, next(images)[0], *annotations))
        expected += [(len(tasks), label)] if label else []
    whole = shown[0][0].read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        tasks.append(task(len(tasks) + 1, content, annotation("0")))
    tasks.append({"id": len(tasks) + 1, "data": {}, "annotations": [annotation("0")]})
    tasks.append({"id": len(tasks) + 1, "data": None, "annotations": [annotation("0")]})
    old = task(len(tasks) + 1, next(images)[0])
    tasks.append({"id": old["id"], "data": old["data"], "completions": [annotation("2")]})
    expected.append((len(tasks), "2"))
    return tasks, expected


def digest(one: Json) -> str:
    return sha256(base64.b64decode(one["data"]["image"].partition(",")[2])).hexdigest()


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_fit_trains_on_exactly_the_images_and_labels_of_the_annotations(
    seed: int | None, shown: Digits, tmp_path: Path
) -> None:
    tasks, expected = project(shown)
    by_id = {one["id"]: one for one in tasks}
    if seed is not None:
        tasks = [tasks[position] for position in np.random.default_rng(seed).permutation(len(tasks))]
        expected.sort(key=lambda pair: tasks.index(by_id[pair[0]]))
    output = fit(tasks, tmp_path)
    learned = json.loads((Path(output["model_dir"]) / "samples.json").read_text(encoding="utf-8"))
    assert [{name: one[name] for name in ("name", "label", "digest")} for one in learned] == [
        {"name": str(number), "label": label, "digest": digest(by_id[number])} for number, label in expected
    ]
    assert all(one["group"] for one in learned)
    assert [one["name"] for one in learned if one.get("ground_truth")] == ["16"]
    assert output["annotations"] == {
        "used": len(expected),
        "skipped": 1,
        "rejected": 1,
        "not annotated": 1,
        "empty": 1,
        "other tag": 1,
        "tie": 1,
        "unknown choice": 1,
        "image missing": 3,
        "image broken": 1,
    }
    assert output["unknown_choices"] == {"7": 2}
    assert output["summary"].startswith(f"Learned from {len(expected)} of {len(tasks)} annotated tasks. Left out: ")
    assert (
        "is trained on the tag digit, but some tasks were annotated with another tag: quality (1×)"
        in (output["summary"])
    )
    assert output["labels"] == {name: [label for _, label in expected].count(name) for name in "012"}


def test_training_on_annotations_of_another_tag_alone_names_both_tags(shown: Digits, tmp_path: Path) -> None:
    tasks = [task(number, path, annotation(label, name="number")) for number, (path, label) in enumerate(shown[:6], 1)]

    with pytest.raises(TrainingError, match=r"trained on the tag digit, .* another tag: number \(6×\)"):
        fit(tasks, tmp_path)


def test_near_duplicates_are_grouped_though_their_images_have_left_the_cache(shown: Digits, tmp_path: Path) -> None:
    """A cache that is smaller than the project loses the first images before the last ones are fetched."""
    contents = Path(os.environ["CACHE_DIR"]) / "media" / "contents"

    def lose_all(record: Json) -> None:
        if record["phase"] == "embedding images":
            for path in contents.iterdir():
                path.unlink()

    images = [(path, label) for path, label in shown[:6] for _ in range(2)]
    tasks = [
        task(number, brighter(path) if number % 2 else path, annotation(label))
        for number, (path, label) in enumerate(images)
    ]

    output = fit(tasks, tmp_path, progress=lose_all)

    groups = [sample.group for sample in read_samples(Path(output["model_dir"]) / "samples.json")]
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 6


@pytest.mark.parametrize(("in_label_studio", "counts"), [("2026-11-20T09:00:00Z", "2"), ("2026-11-20T11:00:00Z", "0")])
def test_later_of_an_images_correction_and_annotation_counts(
    shown: Digits, tmp_path: Path, in_label_studio: str, counts: str
) -> None:
    path, label = shown[0]
    tasks = [task(1, path, annotation(label, updated_at=in_label_studio)), *labeled(shown[1:30])]

    output = fit([*tasks, corrected(path, "2")], tmp_path)

    samples = json.loads((Path(output["model_dir"]) / "samples.json").read_text())
    digest = sha256(path.read_bytes()).hexdigest()
    assert [sample["label"] for sample in samples if sample["digest"] == digest] == [counts]
    assert output["annotations"]["labeled otherwise later"] == 1


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The tasks whose images were read."""
    tasks: list[int | None] = []
    fetch_all = Media.fetch_all

    def noted(self: Media, wanted: Sequence[MediaRequest], deadline: float = math.inf) -> list[MediaFile | MediaError]:
        tasks.extend(request.task_id for request in wanted)
        return fetch_all(self, wanted, deadline)

    monkeypatch.setattr(Media, "fetch_all", noted)
    return tasks


@pytest.fixture
def in_pages(many: None, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Json:
    """Like `trained`, with tasks in pages of ten."""
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 10)
    return fit(PackedTasks(labeled(shown[:30])), tmp_path / "in pages", kind="head")


def without_pages(output: Json, folder: Path) -> Json:
    """The same version as an older release would have made it."""
    shutil.copytree(output["model_dir"], folder)
    (folder / "pages.json").unlink()
    return {**output, "model_dir": str(folder)}


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("changed label", range(1, 11)),
        ("new label", [31]),
        ("skipped", range(21, 32)),
        ("corrected image", [None, *range(11, 21)]),
        ("random sample", range(1, 11)),
    ],
)
def test_update_reads_only_what_is_new_and_learns_the_same(
    what: str, read: Sequence[int | None], in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path
) -> None:
    tasks, options = labeled(shown[:30]), {}
    if what in ("changed label", "random sample"):
        tasks[0] = task(1, shown[0][0], annotation("2"))
    if what == "random sample":
        options = {"random_sample": {12, 13}}
    elif what == "new label":
        tasks = labeled(shown[:31])
    elif what == "skipped":
        tasks = labeled(shown[:31])
        tasks[29]["annotations"].append(annotation("1", by=2, was_cancelled=True))
    elif what == "corrected image":
        tasks.append(corrected(*shown[10]))

    fetched.clear()
    updated = fit(PackedTasks(tasks), tmp_path / "1", in_pages, kind="head", **options)
    assert sorted(set(fetched), key=lambda number: number or 0) == list(read)
    again = without_pages(in_pages, tmp_path / "old")
    expected = fit(PackedTasks(tasks), tmp_path / "2", again, kind="head", **options)

    assert len(set(fetched)) == len(tasks)
    assert updated.get("updated") == expected.get("updated") == True  # noqa: E712
    same = ("figures", "labels", "sources", "annotations", "unknown_choices", "summary", "classes")
    assert {name: updated[name] for name in same} == {name: expected[name] for name in same}
    lists = [json.loads((Path(one["model_dir"]) / "samples.json").read_text()) for one in (updated, expected)]
    assert sorted(lists[0], key=str) == sorted(lists[1], key=str)
    heads = [load_file(Path(one["model_dir"]) / "head.safetensors") for one in (updated, expected)]
    assert all(torch.allclose(heads[0][name], heads[1][name], atol=1e-4) for name in heads[0])


def test_each_update_knows_what_those_before_have_learned(
    in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "CHANGED_SHARE", 1.0)
    live, tasks = in_pages, labeled(shown[:30])
    for number, changed in enumerate((0, 10, 20)):
        tasks[changed] = task(changed + 1, shown[changed][0], annotation("012"[changed % 3 - 1]))
        fetched.clear()
        live = fit(PackedTasks(tasks), tmp_path / str(number), live, kind="head")
        assert set(fetched) == set(range(changed + 1, changed + 11))

    assert live["figures"]["labels_since"] == 3
    assert learned_by(live) == {
        str(one["id"]): one["annotations"][0]["result"][0]["value"]["choices"][0] for one in tasks
    }


@pytest.mark.parametrize("what", ["deletion", "lost embeddings", "new config", "damaged", "other list"])
def test_update_reads_all_labels_if_the_known_ones_are_not_enough(
    what: str, in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path
) -> None:
    tasks, label_config = labeled(shown[:31]), CONFIG
    pages = Path(in_pages["model_dir"]) / "pages.json"
    if what == "deletion":
        del tasks[0]
    elif what == "lost embeddings":
        shared.networks().lane._cache.close()
        shutil.rmtree(shared.settings().cache_dir / "embeddings")
        shared.networks().close()
        shared._make_networks.cache_clear()
    elif what == "new config":
        label_config = config("0", "1", "2", view="<View>{}</View>")
    elif what == "damaged":
        pages.write_text(pages.read_text()[:-20])
    else:
        record = json.loads(pages.read_text())
        pages.write_text(json.dumps({**record, "samples": 31}))

    output = fit(PackedTasks(tasks), tmp_path / "new", in_pages, label_config, kind="head")

    assert set(fetched) >= {one["id"] for one in tasks}
    assert ("updated" in output) == (what != "deletion")
    assert len(learned_by(output)) == len(tasks)
