"""The cache of embeddings: bounded, shared by processes, and never mixed up between networks."""

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import lmdb
import numpy as np
import pytest

from image_classifier.embedding.cache import MAX_BYTES, MAX_ENTRIES, Embedding, EmbeddingCache
from tests.my_backend.namespaces import UNSHARE, needs_namespaces

LOCKS = Path("/proc/locks")
NETWORK, OTHER_NETWORK = "ab" * 16, "cd" * 16

WRITER = """
import sys
from pathlib import Path
import numpy as np
from hashlib import sha256
from image_classifier.embedding.cache import EmbeddingCache

cache = EmbeddingCache(Path(sys.argv[1]))
first, end = int(sys.argv[2]), int(sys.argv[3])
print("open", flush=True)
sys.stdin.readline()
for number in range(first, end):
    cache.put("ab" * 16, [(sha256(str(number).encode()).hexdigest(), np.full(512, number, np.float32))])
print("written", flush=True)
sys.stdin.readline()
seen = cache.get("ab" * 16, [sha256(b"the parent's").hexdigest()])
print(len(cache), sum(len(embedding) for embedding in seen.values()), flush=True)
cache.close()
"""


def digest(name: object) -> str:
    return sha256(str(name).encode()).hexdigest()


def embedding(number: float) -> Embedding:
    return np.full(512, number, np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    cache = EmbeddingCache(tmp_path / "embeddings")
    yield cache
    cache.close()


def test_an_embedding_comes_back_bit_by_bit(cache: EmbeddingCache) -> None:
    values = np.random.default_rng(0).normal(size=512).astype(np.float32)
    values[:3] = [np.inf, np.nan, -0.0]
    cache.put(NETWORK, [(digest("a"), values)])
    found = cache.get(NETWORK, [digest("a"), digest("b")])
    assert list(found) == [digest("a")]
    assert found[digest("a")].tobytes() == values.tobytes()


def test_embeddings_that_are_no_plain_array_are_kept_right(cache: EmbeddingCache) -> None:
    wide = np.arange(1024, dtype=np.float64).reshape(512, 2)[:, 0]
    cache.put(NETWORK, [(digest("a"), wide)])
    assert cache.get(NETWORK, [digest("a")])[digest("a")].tolist() == list(range(0, 1024, 2))


def test_networks_do_not_see_each_others_embeddings(cache: EmbeddingCache) -> None:
    cache.put(NETWORK, [(digest("a"), embedding(1))])
    assert cache.get(OTHER_NETWORK, [digest("a")]) == {}
    cache.put(OTHER_NETWORK, [(digest("a"), embedding(2))])
    assert cache.get(NETWORK, [digest("a")])[digest("a")][0] == 1
    assert cache.get(OTHER_NETWORK, [digest("a")])[digest("a")][0] == 2


def test_beyond_its_bound_the_oldest_go(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_entries=5)
    for number in range(8):
        cache.put(NETWORK, [(digest(number), embedding(number)), (digest(0), embedding(0))])
        assert len(cache) <= 5
    # 0 was dropped as the oldest once, and then put again
    found = cache.get(NETWORK, [digest(number) for number in range(8)])
    assert {key: value[0] for key, value in found.items()} == {digest(n): n for n in (0, 4, 5, 6, 7)}
    cache.close()


def test_many_more_than_the_bound_at_once_leave_the_newest(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_entries=3)
    cache.put(NETWORK, [(digest(number), embedding(number)) for number in range(100)])
    assert sorted(cache.get(NETWORK, [digest(number) for number in range(100)])) == sorted(map(digest, (97, 98, 99)))
    cache.close()


def test_a_full_cache_does_not_grow_and_has_room_in_its_map(tmp_path: Path) -> None:
    entries = 500
    cache = EmbeddingCache(tmp_path, max_entries=entries)
    sizes = []
    for start in range(0, 4000, 20):
        cache.put(NETWORK, [(digest(number), embedding(number)) for number in range(start, start + 20)])
        sizes.append(os.stat(tmp_path / "data.mdb").st_size)
    assert len(cache) == entries
    assert sizes[-1] < 1.1 * sizes[len(sizes) // 2]
    assert sizes[-1] / entries * MAX_ENTRIES < 0.9 * MAX_BYTES
    cache.close()


READER = """
import sys
from pathlib import Path
from image_classifier.embedding.cache import EmbeddingCache

cache = EmbeddingCache(Path(sys.argv[1]))
with cache._env.begin():
    print("reading", flush=True)
    sys.stdin.readline()
"""


def test_process_that_was_killed_while_it_read_does_not_make_the_cache_grow(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, max_entries=100)

    def fill(start: int) -> int:
        for number in range(start, start + 300):
            cache.put(NETWORK, [(digest(number), embedding(number))])
        return os.stat(tmp_path / "data.mdb").st_size

    size = fill(0)
    command = [sys.executable, "-c", READER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        reader.stdout.readline()
        reader.kill()
    assert fill(300) < 1.1 * size
    cache.close()


@pytest.mark.parametrize("widths", [[512], [2048], [512, 2048], [2048, 512, 4096, 1280]])
def test_beyond_its_size_the_oldest_go_however_wide_they_are(
    widths: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    size, at_once = 8 << 20, 20
    cache = EmbeddingCache(tmp_path, max_bytes=size)
    end = 0
    for width in widths * 2:  # one network takes another's place
        for _ in range(3 * size // (4 * width * at_once)):
            end += at_once
            cache.put(NETWORK, [(digest(n), np.full(width, n, np.float32)) for n in range(end - at_once, end)])
        newest = range(end - size // (10 * width), end)
        found = cache.get(NETWORK, [digest(number) for number in newest])
        assert {key: set(value) for key, value in found.items()} == {digest(n): {n} for n in newest}
        assert {len(value) for value in found.values()} == {width}
    assert (tmp_path / "data.mdb").stat().st_size <= 1.25 * size
    assert not caplog.records
    cache.close()


def test_cache_that_an_older_release_filled_to_the_last_page_goes_on(tmp_path: Path) -> None:
    def stored(number: int) -> bytes:
        value = np.full(2048, number, np.float32).tobytes()
        return value + crc32(value).to_bytes(4, "big")

    size, filled = 2 << 20, 0
    with lmdb.open(str(tmp_path), map_size=size, max_dbs=2) as env, contextlib.suppress(lmdb.MapFullError):
        databases = env.open_db(b"embeddings"), env.open_db(b"order")
        while True:
            with env.begin(write=True) as transaction:
                key = bytes.fromhex(NETWORK + digest(filled))
                transaction.put(key, stored(filled), db=databases[0])
                transaction.put(struct.pack(">Q", filled + 1), key, db=databases[1], append=True)
            filled += 1

    cache = EmbeddingCache(tmp_path, max_bytes=size * 14 // 16)
    assert (cache.get(NETWORK, [digest(filled - 1)])[digest(filled - 1)] == filled - 1).all()
    for number in range(filled, 2 * filled):
        cache.put(NETWORK, [(digest(number), np.full(2048, number, np.float32))])
        assert digest(number) in cache.get(NETWORK, [digest(number)])
    assert len(cache) < filled * 1.4
    cache.close()


def test_it_outlives_its_process_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "embeddings"
    cache = EmbeddingCache(folder)
    cache.put(NETWORK, [(digest("a"), embedding(1))])
    cache.close()
    again = EmbeddingCache(folder)
    assert digest("a") in again.get(NETWORK, [digest("a")])
    again.close()
    assert [path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())] == [0, 0, 0]


def test_processes_share_it_and_write_at_once(cache: EmbeddingCache, tmp_path: Path) -> None:
    def writer(first: int, end: int) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", WRITER, str(tmp_path / "embeddings"), str(first), str(end)]
        return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def both_say(answer: str) -> None:
        for process in (one, two):
            assert process.stdout and process.stdout.readline() == f"{answer}\n"

    def tell_both() -> None:
        for process in (one, two):
            assert process.stdin
            process.stdin.write("go on\n")
            process.stdin.flush()

    with writer(0, 200) as one, writer(150, 350) as two:
        both_say("open")
        tell_both()
        cache.put(NETWORK, [(digest("the parent's"), embedding(7))])
        both_say("written")
        tell_both()
        both_say("351 512")
    found = cache.get(NETWORK, [digest(number) for number in range(350)])
    assert [found[digest(number)][0] for number in range(350)] == list(range(350))
    assert len(cache) == 351


def damage(path: Path, how: str) -> None:
    """As a loss of power, a full disk or a failing one may leave it."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    if how == "cut short":
        data = data[: middle + 100]
    elif how == "no head":
        data[:8192] = bytes(8192)
    elif how == "empty":
        data.clear()
    else:
        filling = bytes(4096) if how == "empty pages" else os.urandom(4096)
        for start in range(8192, len(data), 8192):
            data[start : start + 4096] = filling
    path.write_bytes(data)


@needs_namespaces
def test_containers_whose_processes_have_the_same_id_share_a_folder(tmp_path: Path) -> None:
    arguments = [*UNSHARE, sys.executable, "-c", WRITER, str(tmp_path / "embeddings"), "0", "10"]
    with contextlib.ExitStack() as ended:
        writers = [
            ended.enter_context(
                subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            )
            for _ in range(3)
        ]
        opened = [writer.stdout.readline() for writer in writers if writer.stdout]  # before any of them ends
        outputs = [writer.communicate(b"\n\n", timeout=60) for writer in writers]

    assert opened == [b"open\n"] * 3, outputs
    assert [output for output, _ in outputs] == [b"written\n10 0\n"] * 3, outputs


def test_second_opening_in_a_process_leaves_the_locks_of_the_first(tmp_path: Path) -> None:
    """Closing a file releases the process's locks on it: another process would then overwrite what this one reads."""

    def held() -> int:
        inode = (tmp_path / "lock.mdb").stat().st_ino
        return sum(f" {os.getpid()} " in line and f":{inode} " in line for line in LOCKS.read_text().splitlines())

    if not LOCKS.exists():
        pytest.skip("this system doesn't list its locks")
    cache = EmbeddingCache(tmp_path)
    before = held()
    with pytest.raises(lmdb.Error):
        EmbeddingCache(tmp_path)
    assert held() == before > 0
    cache.close()


@needs_namespaces
def test_new_cache_on_a_full_disk_is_an_error_and_kills_nothing(tmp_path: Path) -> None:
    fill = f"mount -t tmpfs -o size=16k tmpfs {tmp_path} && head -c 8k /dev/zero > {tmp_path}/file"
    writer = [sys.executable, "-c", WRITER, f"{tmp_path}/embeddings", "0", "1"]
    arguments = [*UNSHARE, "sh", "-c", f'{fill} && exec "$@"', "sh", *writer]
    said = subprocess.run(arguments, input="", capture_output=True, text=True, check=False)
    assert said.returncode == 1, said
    assert said.stderr.endswith("OSError: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("key", [b"\xff" * 8, b"\xff" * 9])
def test_sequence_number_that_is_damaged_costs_the_cache_only(
    key: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EmbeddingCache(tmp_path)
    with cache._env.begin(write=True) as transaction:
        transaction.put(key, b"", db=cache._order)

    for _ in range(2):  # the first embedding is lost with the old cache
        cache.put(NETWORK, [(digest(1), embedding(1))])

    assert digest(1) in cache.get(NETWORK, [digest(1)])
    assert "a sequence number is damaged" in caplog.text
    cache.close()


@pytest.mark.parametrize("how", ["cut short", "no head", "empty", "empty pages", "random pages"])
def test_what_is_damaged_is_recomputed_and_never_believed(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [digest(number) for number in range(300)]
    cache = EmbeddingCache(tmp_path)
    cache.put(NETWORK, [(name, embedding(number)) for number, name in enumerate(names)])
    cache.close()
    damage(tmp_path / "data.mdb", how)

    for _ in range(2):  # a second time nothing is amiss any more
        cache = EmbeddingCache(tmp_path)
        found = cache.get(NETWORK, names)
        assert all((found[name] == number).all() for number, name in enumerate(names) if name in found)
        cache.put(NETWORK, [(name, embedding(number)) for number, name in enumerate(names)])
        cache.put(NETWORK, [(name, embedding(number)) for number, name in enumerate(names)])
        assert len(cache.get(NETWORK, names)) == len(names)
        cache.close()
    if how != "empty pages":  # which may be found one by one
        assert sum("creating a new one" in record.message for record in caplog.records) == (how != "empty")


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from hashlib import sha256
from image_classifier.embedding.cache import EmbeddingCache

cache = EmbeddingCache(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
for number in range(100):
    some = [(sha256(f"{number} {n}".encode()).hexdigest(), np.zeros(512, np.float32)) for n in range(10)]
    cache.put("ab" * 16, some)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
before = len(cache)
cache.put("ab" * 16, some)
print(before, len(cache))
"""


def test_where_the_disk_is_full_nothing_is_added_and_nothing_fails(tmp_path: Path) -> None:
    written = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    before, after = map(int, written.stdout.split())
    assert 0 < before < 1000
    assert after == before + 10
    assert "can't cache embeddings" in written.stderr


DAMAGED_ON_A_FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from hashlib import sha256
from image_classifier.embedding.cache import EmbeddingCache

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
cache = EmbeddingCache(Path(sys.argv[1]))
some = [(sha256(str(number).encode()).hexdigest(), np.full(512, number, np.float32)) for number in range(300)]
cache.put("ab" * 16, some)
path = Path(sys.argv[1], "data.mdb")
with path.open("r+b") as file:
    for start in range(8192, path.stat().st_size, 4096):
        file.seek(start)
        file.write(os.urandom(64))


def lookup():
    cache.put("ab" * 16, some)
    print(len(cache.get("ab" * 16, [digest for digest, _ in some])), flush=True)


resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
lookup()
lookup()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
lookup()  # this one finds that there is room again
lookup()
"""


def test_cache_that_is_damaged_while_it_is_open_and_the_disk_full_works_again_later(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAMAGED_ON_A_FULL_DISK, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        found, logged = process.communicate(timeout=60)
    assert found.split() == ["0", "0", "0", "300"], logged
    assert "creating a new one" in logged
    assert "can't create a new embedding cache" in logged
