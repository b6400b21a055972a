"""The precision of a network is float32 until a trial has chosen another one."""

import json
from pathlib import Path

import pytest
import torch

from image_classifier.embedding.precisions import Precisions, fingerprint_of
from image_classifier.nets.classifier import Backbone

CPU = torch.device("cpu")
BFLOAT16 = torch.bfloat16


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor the tests run on."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": True})


def test_network_computes_in_float32_until_another_process_has_chosen(backbone: Backbone, tmp_path: Path) -> None:
    server, worker = Precisions(tmp_path), Precisions(tmp_path)
    assert server(backbone, CPU) == torch.float32
    assert worker.candidates(backbone, CPU) == (BFLOAT16,)

    worker.choose(backbone, CPU, BFLOAT16, {"bfloat16": {"agreement": 1.0}}, 200)

    assert server(backbone, CPU) == worker(backbone, CPU) == BFLOAT16
    assert server.candidates(backbone, CPU) == ()
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {
        "chosen": "bfloat16",
        "images": 200,
        "trials": {"bfloat16": {"agreement": 1.0}},
    }


def test_float32_is_a_choice_too(backbone: Backbone, tmp_path: Path) -> None:
    Precisions(tmp_path).choose(backbone, CPU, torch.float32, {}, 200)

    assert Precisions(tmp_path)(backbone, CPU) == torch.float32
    assert Precisions(tmp_path).candidates(backbone, CPU) == ()


@pytest.mark.parametrize(
    "content",
    ["damaged", "[]", '{"chosen": "bfloat16", "trials": {}}', '{"chosen": [], "images": 1}', "[" * 100_000],
    ids=["damaged", "list", "older", "another type", "nested deeply"],
)
def test_choice_of_an_older_release_or_a_damaged_one_is_made_again(
    backbone: Backbone, tmp_path: Path, content: str
) -> None:
    Precisions(tmp_path).choose(backbone, CPU, BFLOAT16, {}, 200)
    (path,) = tmp_path.iterdir()
    path.write_text(content)

    assert Precisions(tmp_path)(backbone, CPU) == torch.float32
    assert Precisions(tmp_path).candidates(backbone, CPU) == (BFLOAT16,)


def test_processor_without_the_chosen_precision_computes_in_float32(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Precisions(tmp_path).choose(backbone, CPU, BFLOAT16, {}, 200)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})

    assert Precisions(tmp_path)(backbone, CPU) == torch.float32


def test_unwritable_folder_only_hides_the_choice_from_other_processes(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    precisions = Precisions(tmp_path / "file")

    precisions.choose(backbone, CPU, BFLOAT16, {}, 200)

    assert precisions(backbone, CPU) == BFLOAT16
    assert "can't write" in caplog.text


def test_embeddings_of_different_precisions_have_different_names(backbone: Backbone) -> None:
    names = [fingerprint_of(backbone, each) for each in (torch.float32, torch.float16, BFLOAT16)]

    assert names[0] == backbone.fingerprint
    assert len(set(names)) == 3
    assert all(len(bytes.fromhex(name)) == len(bytes.fromhex(names[0])) for name in names)
