"""Shards: each image gets its own embedding, whatever happens to the files, and no more digits are lost than said."""

import logging
import os
import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from image_classifier.embedding import shards as shards_module
from image_classifier.embedding.cache import Embedding
from image_classifier.embedding.shards import Shards, shards_of, write_shard

NETWORK, OTHER_NETWORK = "ab" * 16, "cd" * 16
HALF = 2.0**-11  # the largest relative error of half precision


def digest(name: object) -> str:
    return sha256(str(name).encode()).hexdigest()


def made(names: range, size: int = 8) -> dict[str, Embedding]:
    return {digest(name): np.random.default_rng(name).normal(size=size).astype(np.float32) for name in names}


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "LOOK_SECONDS", -1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shards_of(tmp_path, NETWORK).mkdir()
    return tmp_path


@pytest.fixture
def shards(folder: Path) -> Shards:
    shards = Shards()
    shards.watch(folder)
    return shards


def write(folder: Path, name: str, embeddings: dict[str, Embedding], network: str = NETWORK) -> Path:
    path = shards_of(folder, network) / name
    path.parent.mkdir(exist_ok=True)
    assert write_shard(path, embeddings) == len(embeddings)
    return path


def are_close(found: dict[str, Embedding], expected: dict[str, Embedding]) -> bool:
    """Whether these are the expected embeddings, in half precision."""
    return found.keys() == expected.keys() and all(
        np.abs(found[key] - expected[key]).max() <= HALF * np.abs(expected[key]).max() for key in expected
    )


def test_images_of_several_shards_get_their_own_embeddings(folder: Path, shards: Shards) -> None:
    write(folder, "a", made(range(300)))
    write(folder, "b", made(range(300, 500)))
    assert are_close(shards.get(NETWORK, [*made(range(100, 600))]), made(range(100, 500)))
    assert shards.hits == 400


def test_found_embeddings_are_float32_like_those_of_the_cache(folder: Path, shards: Shards) -> None:
    write(folder, "a", made(range(1)))
    assert shards.get(NETWORK, [digest(0)])[digest(0)].dtype == np.float32


def test_networks_do_not_see_each_others_embeddings(folder: Path, shards: Shards) -> None:
    write(folder, "a", made(range(3)))
    write(folder, "a", made(range(3, 6)), OTHER_NETWORK)
    assert shards.get(OTHER_NETWORK, [digest(0), digest(4)]).keys() == {digest(4)}


def test_several_watched_folders_are_searched(tmp_path: Path, shards: Shards, folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shards.watch(other)
    write(folder, "a", made(range(3)))
    write(other, "a", made(range(2, 5)))
    assert are_close(shards.get(NETWORK, [*made(range(5))]), made(range(5)))


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_embeddings_of_any_magnitude_keep_half_precision(factor: float, folder: Path, shards: Shards) -> None:
    embeddings = {key: (factor * vector).astype(np.float32) for key, vector in made(range(5)).items()}
    write(folder, "a", embeddings)
    assert are_close(shards.get(NETWORK, [*embeddings]), embeddings)


def test_projects_without_shards_cost_no_search(
    tmp_path: Path, shards: Shards, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    find = shards_module._Index.find
    monkeypatch.setattr(
        shards_module._Index, "find", lambda self, wanted: searched.append(len(wanted)) or find(self, wanted)
    )
    for number in range(100):
        shards.watch(tmp_path / f"other-{number}")
    assert shards.get(NETWORK, [digest(0)]) == {}
    write(folder, "a", made(range(1)))
    assert are_close(shards.get(NETWORK, [digest(0)]), made(range(1)))
    assert searched == [1]


def test_networks_that_are_no_longer_used_take_no_memory(
    folder: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a", embeddings := made(range(2)))
    for number in range(100):  # as each version with all layers trained has another one
        assert shards.get(f"{number:032x}", [digest(0)]) == {}
    assert len(shards.get(NETWORK, [*embeddings])) == 2
    assert len(shards._folders) == 101, "those that were used a moment ago"
    monkeypatch.setattr(shards_module, "UNUSED_SECONDS", 0.0)

    assert len(shards.get(NETWORK, [*embeddings])) == 2

    assert len(shards._folders) == 1


def test_a_row_of_zeros_stays_one(folder: Path, shards: Shards) -> None:
    write(folder, "a", {digest(0): np.zeros(8, np.float32)})
    assert shards.get(NETWORK, [digest(0)])[digest(0)].tolist() == [0.0] * 8


def test_embeddings_that_are_not_finite_are_left_out(folder: Path, shards: Shards) -> None:
    path = shards_of(folder, NETWORK) / "a"
    broken = np.array([1, np.nan, 0], np.float32), np.array([1, np.inf, 0], np.float32)
    embeddings = {digest(number): vector for number, vector in enumerate([*broken, np.ones(3, np.float32)])}
    assert write_shard(path, embeddings) == 1
    assert shards.get(NETWORK, [*embeddings]).keys() == {digest(2)}


def test_a_shard_without_images_is_no_damage(folder: Path, shards: Shards) -> None:
    path = write(folder, "a", {})
    assert shards.get(NETWORK, [digest(0)]) == {}
    assert path.exists()


def test_new_files_are_found_and_removed_ones_forgotten(folder: Path, shards: Shards) -> None:
    assert shards.get(NETWORK, [digest(0)]) == {}
    path = write(folder, "a", made(range(2)))
    assert shards.get(NETWORK, [digest(0)])
    write(folder, "b", made(range(1, 3)))
    path.unlink()
    assert shards.get(NETWORK, [*made(range(3))]).keys() == {digest(1), digest(2)}


def test_between_two_looks_a_removed_file_costs_only_its_embeddings(
    folder: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "a", made(range(2)))
    write(folder, "b", made(range(2, 4)))
    assert len(shards.get(NETWORK, [*made(range(4))])) == 4
    monkeypatch.setattr(shards_module, "LOOK_SECONDS", 3600.0)
    path.unlink()
    assert shards.get(NETWORK, [*made(range(4))]).keys() == {digest(2), digest(3)}


def replaced(path: Path, embeddings: dict[str, Embedding]) -> None:
    """Gives the file other content, as the next attempt does if as many images of its range can be read."""
    part = path.with_name(".part-x")
    write_shard(part, embeddings)
    part.replace(path)


def test_a_file_that_is_replaced_under_its_name_is_read_again(folder: Path, shards: Shards) -> None:
    path = write(folder, "a", made(range(3)))
    assert len(shards.get(NETWORK, [*made(range(3))])) == 3
    replaced(path, embeddings := made(range(3, 8)))
    assert are_close(shards.get(NETWORK, [*made(range(8))]), embeddings)


def test_a_file_that_gets_the_inode_of_the_one_before_is_read_again(folder: Path, shards: Shards) -> None:
    """As after two replacements between two looks."""
    path = write(folder, "a", made(range(3)))
    assert len(shards.get(NETWORK, [*made(range(3))])) == 3
    write_shard(path, embeddings := made(range(3, 6)))
    os.utime(path, (0, 0))
    assert are_close(shards.get(NETWORK, [*made(range(6))]), embeddings)


def test_a_file_that_is_replaced_between_two_looks_is_not_taken_for_a_damaged_one(
    folder: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "a", made(range(3)))
    assert len(shards.get(NETWORK, [*made(range(3))])) == 3
    monkeypatch.setattr(shards_module, "LOOK_SECONDS", 3600.0)
    replaced(path, made(range(3, 8)))
    assert shards.get(NETWORK, [*made(range(8))]) == {}
    assert path.exists()


def test_a_folder_that_is_missing_or_no_folder_is_empty(tmp_path: Path) -> None:
    shards = Shards()
    shards.watch(tmp_path / "missing")
    (tmp_path / "file").touch()
    shards.watch(tmp_path / "file")
    assert shards.get(NETWORK, [digest(0)]) == {}


def test_hidden_files_are_left_alone(folder: Path, shards: Shards) -> None:
    part = shards_of(folder, NETWORK) / ".part-x"
    part.write_bytes(b"EMBSHRD1")
    assert shards.get(NETWORK, [digest(0)]) == {}
    assert part.exists()


def test_damage_anywhere_in_a_file_never_gives_wrong_embeddings(
    folder: Path, shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    """Each byte in turn is another one; a look finds damage of the index, and reading a row that of the row."""
    embeddings = made(range(3), size=4)
    path = write(folder, "a", embeddings)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        shards = Shards()
        shards.watch(folder)
        found = shards.get(NETWORK, [*embeddings])
        assert are_close(found, {key: embeddings[key] for key in found}), place
        assert not path.exists(), place
    assert "are damaged" in caplog.text


@pytest.mark.parametrize("length", [0, 7, 19, 30, 60, -1])
def test_a_truncated_file_is_reported_and_removed(
    length: int, folder: Path, shards: Shards, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(folder, "a", made(range(3)))
    path.write_bytes(path.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert shards.get(NETWORK, [*made(range(3))]) == {}
    assert not path.exists()
    assert caplog.messages[0].startswith(f"the embeddings in {path} are damaged")


def test_a_shard_that_shrinks_after_the_look_does_no_harm(
    folder: Path, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "a", made(range(3)))
    assert len(shards.get(NETWORK, [*made(range(3))])) == 3
    monkeypatch.setattr(shards_module, "LOOK_SECONDS", 3600.0)
    path.write_bytes(b"")
    assert shards.get(NETWORK, [*made(range(3))]) == {}


def test_another_image_with_the_same_beginning_of_its_digest_is_not_found(folder: Path, shards: Shards) -> None:
    write(folder, "a", made(range(1)))
    assert shards.get(NETWORK, [digest(0)[:16] + "0" * 48]) == {}


def test_threads_that_look_at_the_same_time_all_get_their_embeddings(folder: Path, shards: Shards) -> None:
    write(folder, "a", made(range(200)))
    shards.get(NETWORK, [digest(0)])
    right: list[bool] = []

    def ask(first: int) -> None:
        for _ in range(20):
            right.append(
                are_close(shards.get(NETWORK, [*made(range(first, first + 20))]), made(range(first, first + 20)))
            )

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 160, 40)]
    for thread in threads:
        thread.start()
    for number in range(5):
        write(folder, f"more-{number}", made(range(1000 + number, 1001 + number)))
    for thread in threads:
        thread.join()
    assert right == [True] * 80
