"""What a loss of power may leave of recorded calls, as in the ALICE study (Pillai et al., OSDI 2014).

Data lasts from the fsync of its file, a name from the fsync of its folder. Before that, either may be there or not:
names in the order of the calls or in any other; data not at all, in part, or as zeros of the right length.
A rename is atomic, also from one folder to another.
"""

from collections.abc import Callable, Collection, Iterator

from tests.my_backend.crashes.disk import Disk, File, Folder, Named, Synced, Tree, Written, tree_of

Data = Callable[[bytes, bytes], bytes]  # last synced content, content → what is found

DATA: dict[str, Data] = {
    "written": lambda synced, content: content,
    "lost": lambda synced, content: synced,
    "torn": lambda synced, content: content[: len(content) // 2],
    "zeros": lambda synced, content: bytes(len(content)),
}


def states(disk: Disk, calls: int) -> Iterator[tuple[str, Tree]]:
    """The trees that may be found if power is lost after that many calls, each with words for it."""
    journal = disk.journal[: disk.journal_at[calls - 1]] if calls else []
    pending = [
        number for number, one in enumerate(journal) if isinstance(one, Named) and not _is_synced(journal, number)
    ]
    for words, chosen in _choices(pending):
        for kept, data in DATA.items():
            yield f"{words}, data {kept}", _found(disk.top, journal, pending, chosen, data)


def _is_synced(journal: list[Named | Written | Synced], number: int) -> bool:
    named = journal[number]
    assert isinstance(named, Named)
    folder = named.entries[-1][0]
    return any(isinstance(one, Synced) and one.node is folder for one in journal[number:])


def _choices(pending: list[int]) -> Iterator[tuple[str, frozenset[int]]]:
    """Which of the names that aren't synced are found."""
    everything = frozenset(pending)
    for count in range(len(pending) + 1):
        yield f"{count} of {len(pending)} names", frozenset(pending[:count])
    for number, one in enumerate(pending):
        yield f"all names but {number}", everything - {one}
        yield f"only name {number}", frozenset({one})


def _found(
    top: Folder,
    journal: list[Named | Written | Synced],
    pending: Collection[int],
    chosen: Collection[int],
    data: Data,
) -> Tree:
    entries: dict[Folder, dict[str, File | Folder]] = {}
    synced: dict[File, bytes] = {}
    content: dict[File, bytes] = {}
    for number, one in enumerate(journal):
        if isinstance(one, Written):
            content[one.file] = one.content
        elif isinstance(one, Named):
            if number in chosen or number not in pending:
                for folder, name, node in one.entries:
                    names = entries.setdefault(folder, dict(folder.start))
                    if node is None:
                        names.pop(name, None)
                    else:
                        names[name] = node
        elif isinstance(one.node, File):
            synced[one.node] = content.get(one.node, one.node.start)

    def read(file: File) -> bytes:
        before, now = synced.get(file, file.start), content.get(file, file.start)
        return now if before == now else data(before, now)

    return tree_of(top, lambda folder: entries.get(folder, folder.start), read)
