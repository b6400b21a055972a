"""The index of a pool: neighbors, files, and processes that share them."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classifier.pool.index import DIGEST, PoolIndex

SIZE = 16


def digest(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE)).astype(np.float32)


def named(vectors: np.ndarray, first: int = 0) -> list[tuple[str, np.ndarray]]:
    return [(digest(first + number), vector) for number, vector in enumerate(vectors)]


def cosines(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    return vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def test_nearest_are_those_of_exact_cosines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_classifier.pool.index.BLOCK", 64)  # several blocks, the last one shorter
    vectors = embeddings(500)
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(vectors))
    for query in embeddings(20, seed=1):
        rows, found = index.nearest(query, 10)
        exact = cosines(vectors, query)
        np.testing.assert_allclose(found, np.sort(exact)[::-1][:10], atol=2e-3)
        np.testing.assert_allclose(found, exact[rows], atol=2e-3)


def test_nearest_of_an_image_is_itself_whatever_its_length(tmp_path: Path) -> None:
    vectors = embeddings(50) * np.logspace(-10, 10, 50, dtype=np.float32)[:, None]
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(vectors))
    assert [int(index.nearest(vector, 1)[0]) for vector in vectors] == list(range(50))


def test_nearest_among_some_images(tmp_path: Path) -> None:
    vectors = embeddings(60)
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(vectors))
    some = np.zeros(60, bool)
    some[[3, 5, 8]] = True
    rows, _ = index.nearest(vectors[0], 10, some)
    assert sorted(rows.tolist()) == [3, 5, 8]


def test_empty_index_has_no_neighbors(tmp_path: Path) -> None:
    rows, found = PoolIndex(tmp_path, "ab", SIZE).nearest(embeddings(1)[0], 5)
    assert (rows.tolist(), found.tolist()) == ([], [])


def test_embedding_that_is_not_finite_is_near_nothing(tmp_path: Path) -> None:
    vectors = embeddings(3)
    vectors[0] = np.nan
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(vectors))
    rows, found = index.nearest(vectors[1], 3)
    assert int(rows[0]) == 1
    assert np.isfinite(found.numpy()).all()


def test_image_is_added_once(tmp_path: Path) -> None:
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(embeddings(5)))
    index.add(named(embeddings(8)))
    assert (len(index), index.rows_of([digest(7), digest(99)])) == (8, [7, None])
    assert index.digests == [digest(number) for number in range(8)]


def test_another_network_has_another_index(tmp_path: Path) -> None:
    PoolIndex(tmp_path, "ab", SIZE).add(named(embeddings(5)))
    assert (len(PoolIndex(tmp_path, "ab", SIZE)), len(PoolIndex(tmp_path, "cd", SIZE))) == (5, 0)


def test_two_that_share_the_files_add_in_turn(tmp_path: Path) -> None:
    vectors = embeddings(6)
    one, other = PoolIndex(tmp_path, "ab", SIZE), PoolIndex(tmp_path, "ab", SIZE)
    one.add(named(vectors[:4]))
    other.add(named(vectors[2:], first=2))
    one.refresh()
    assert one.digests == other.digests == [digest(number) for number in range(6)]
    assert int(one.nearest(vectors[5], 1)[0]) == 5


@settings(deadline=None, max_examples=30)
@given(cut_vectors=st.integers(0, 5 * 2 * SIZE), cut_digests=st.integers(0, 5 * DIGEST))
def test_files_cut_anywhere_keep_complete_rows(
    cut_vectors: int, cut_digests: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, vectors = tmp_path_factory.mktemp("index"), embeddings(5)
    PoolIndex(folder, "ab", SIZE).add(named(vectors))
    for suffix, size in (("vectors", cut_vectors), ("digests", cut_digests)):
        with next(folder.glob(f"*.{suffix}")).open("r+b") as file:
            file.truncate(size)
    index = PoolIndex(folder, "ab", SIZE)
    assert len(index) == min(cut_vectors // (2 * SIZE), cut_digests // DIGEST)
    index.add(named(vectors))
    assert sorted(index.digests) == sorted(digest(number) for number in range(5))
    for name, vector in named(vectors):
        assert index.digests[int(index.nearest(vector, 1)[0])] == name


def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    PoolIndex(tmp_path / "pool", "ab", SIZE).add(named(embeddings(2)))
    assert {path.stat().st_mode & 0o077 for path in [tmp_path / "pool", *(tmp_path / "pool").iterdir()]} == {0}


def test_memory_is_mapped_and_in_half_precision(tmp_path: Path) -> None:
    index = PoolIndex(tmp_path, "ab", SIZE)
    index.add(named(embeddings(100)))
    file = next(tmp_path.glob("*.vectors"))
    assert file.stat().st_size == 100 * 2 * SIZE
    with file.open("r+b") as opened:  # what stands in the file is what is searched
        opened.write(np.full(SIZE, 0.25, np.float16).tobytes())
    assert index.vectors[0].tolist() == [0.25] * SIZE
