"""A version's files are complete, and a version that is clearly worse is held back."""

import json
import re
import shutil
from pathlib import Path

import pytest

from image_classifier.data.dataset import Sample, held_out
from image_classifier.data.image_file import ImageFile
from image_classifier.evaluation import comparison
from image_classifier.nets.weights import WeightsError
from image_classifier.training import all_layers as all_layers_module
from model import ImageClassifierAPI
from task_classifier import shared
from tests.task_classifier.digit_tasks import CONFIG, Digits, Json, annotation, asked, fit, labeled, task


def test_a_version_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"{tmp_path / 'gone'} has no model"):
        ImageClassifierAPI(CONFIG, {"model_dir": str(tmp_path / "gone")})


def test_versions_of_the_same_network_share_it_in_memory(trained: Json, shown: Digits, tmp_path: Path) -> None:
    again = fit(labeled(shown[:12]), tmp_path / "second")
    one, two = ImageClassifierAPI(CONFIG, trained), ImageClassifierAPI(CONFIG, again)
    assert one.classifier
    assert two.classifier
    assert one.classifier.backbone is two.classifier.backbone


def test_what_fit_returns_is_json_and_enough_to_predict(trained: Json, shown: Digits) -> None:
    again = json.loads(json.dumps(trained, allow_nan=False))
    assert again == trained
    assert trained["classes"] == ["0", "1", "2"]
    assert trained["labels"] == {"0": 10, "1": 10, "2": 10}
    assert (trained["warning"], trained["held_back"]) == ("", "")
    assert trained["figures"]["images"] == 30
    assert sorted(path.name for path in Path(trained["model_dir"]).iterdir()) == [
        "backbone.safetensors", "head.safetensors", "mistakes.json", "model.json", "pages.json", "samples.json",
    ]  # fmt: skip


def samples(shown: Digits) -> list[Sample]:
    return [Sample(ImageFile.of(path), label) for path, label in shown]


def test_the_next_version_links_the_network_it_shares(trained: Json, shown: Digits, tmp_path: Path) -> None:
    again = fit(labeled(shown[:33]), tmp_path / "second", trained)
    first, second = (Path(output["model_dir"]) / "backbone.safetensors" for output in (trained, again))
    assert second.samefile(first)
    assert again["labels"] == {"0": 11, "1": 11, "2": 11}
    assert all(ImageClassifierAPI(CONFIG, again).predict(asked(shown[:2])))


@pytest.mark.parametrize("damage", ["", "{}", "[" * 100_000])
def test_list_of_learned_images_that_is_damaged_stops_no_training(shown: Digits, tmp_path: Path, damage: str) -> None:
    first = fit(labeled(shown[:12]), tmp_path / "first")
    (Path(first["model_dir"]) / "samples.json").write_text(damage)
    assert fit(labeled(shown[:15]), tmp_path / "second", first)["model_dir"]


def test_a_network_whose_file_is_gone_is_written(shown: Digits, tmp_path: Path) -> None:
    first = fit(labeled(shown[:30]), tmp_path / "first")
    live = ImageClassifierAPI(CONFIG, first)
    shutil.rmtree(first["model_dir"])
    again = live.fit(labeled(shown[:30]), workdir=str(tmp_path / "second"))
    assert all(ImageClassifierAPI(CONFIG, again).predict(asked(shown[:2])))


def test_a_better_version_is_not_held_back(trained: Json, shown: Digits, tmp_path: Path) -> None:
    assert fit(labeled(shown[:57]), tmp_path, trained)["held_back"] == ""
    assert fit(labeled(shown[:30]), tmp_path / "same", trained)["held_back"] == ""


def scrambled(shown: Digits) -> tuple[Digits, list[bool]]:
    """Wrong labels for all but the held-out images, and which these are."""
    wrong = {"0": "1", "1": "2", "2": "0"}
    sides = held_out(samples(shown))
    return [(path, label if out else wrong[label]) for (path, label), out in zip(shown, sides, strict=True)], sides


def test_a_version_that_learned_scrambled_labels_is_held_back(shown: Digits, tmp_path: Path) -> None:
    live = fit(labeled(shown[:57]), tmp_path / "live")
    mixed_up, sides = scrambled(shown[:57])
    published: list[Json] = []
    output = fit(labeled(mixed_up), tmp_path / "worse", live, publish=published.append)
    assert published == [output]  # to be kept, not to go live
    start = f"its accuracy on {sum(sides)} held-out images is "
    assert output["held_back"].startswith(start)
    after, before = re.findall(r"([\d.]+)%", output["held_back"])
    assert float(after) < float(before) - 30
    # A version that starts from it is compared with it, and may well be better.
    assert fit(labeled(shown[:57]), tmp_path / "corrected", output)["held_back"] == ""


def test_all_layers_with_scrambled_labels_are_held_back_like_their_head(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = fit(labeled(shown[:57]), tmp_path / "live")
    monkeypatch.setenv("TRAIN_MODE", "full")
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setattr(comparison.Comparison, "better", True)
    monkeypatch.setattr(all_layers_module, "FEWEST_COMPARED", 1)
    published: list[Json] = []
    shared.settings.cache_clear()
    fit(labeled(scrambled(shown[:57])[0]), tmp_path / "worse", live, publish=published.append)
    assert [output["held_back"].startswith("its accuracy on ") for output in published] == [True, True]


def test_changed_tasks_are_no_longer_likely_mistakes(many: None, trained: Json, shown: Digits, tmp_path: Path) -> None:
    one = {"digest": "ab", "label": ["2"], "predicted": ["1"], "confidence": 0.9, "learned": False}
    file = tmp_path / "mistakes.json"
    file.write_text(json.dumps([{**one, "name": name} for name in ("1", "4")]))
    tasks = labeled(shown[:30])
    tasks[0] = task(1, shown[0][0], annotation("2"))

    output = fit(tasks, tmp_path / "1", {**trained, "mistakes": str(file)}, kind="head")

    assert [one["name"] for one in json.loads(Path(output["mistakes"]).read_text())] == ["4"]
