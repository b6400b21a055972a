"""Makes the table of ordinary words and the classes of ImageNet that they name, by WordNet's hyponyms.

    python -m benchmarks.imagenet_words --wordnet FOLDER > image_classifier/first_guess/words.txt

FOLDER has WordNet 3.0's noun database: `apt-get download wordnet-base`, unpacked with `dpkg -x`, has it in
`usr/share/wordnet`. The order of ImageNet's classes comes from timm. A word has the classes of all its senses: only 94
words have more than one sense with a class, and the first sense of *plant* is a factory.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from timm.data import ImageNetInfo

HYPERNYMS = ("@", "@i")
HEADER = """\
# Ordinary words, each with the ImageNet classes (0 to 999) that are kinds of it.
# Made by `python -m benchmarks.imagenet_words` from WordNet 3.0 (see words-LICENSE.txt) and from timm's order of
# ImageNet's classes (Apache-2.0).
"""

Synset = str  # its offset in data.noun: eight digits


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imagenet_words", description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with data.noun, index.noun and noun.exc")
    wordnet = parser.parse_args().wordnet
    classes = kinds(dict(_hypernyms(wordnet / "data.noun")), [name.removeprefix("n") for name in _imagenet()])
    words = {
        word: set().union(*found)
        for word, senses in _senses(wordnet / "index.noun")
        if (found := [classes[sense] for sense in senses if sense in classes])
    }
    for plural, *singulars in map(str.split, _lines(wordnet / "noun.exc")):
        if plural not in words and (found := [words[one] for one in singulars if one in words]):
            words[plural] = set().union(*found)
    print(HEADER, end="")
    for word, numbers in sorted(words.items()):
        print(word.replace("_", " "), ranges(numbers), sep="\t")


def kinds(hypernyms: dict[Synset, list[Synset]], classes: Iterable[Synset]) -> dict[Synset, set[int]]:
    """For each synset, the numbers of those of the classes that are a kind of it, or are the same."""
    found: dict[Synset, set[int]] = defaultdict(set)
    for number, name in enumerate(classes):
        above, seen = [name], {name}
        while above:
            found[synset := above.pop()].add(number)
            above += (new := set(hypernyms[synset]) - seen)
            seen |= new
    return dict(found)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as text: `1-3 7`."""
    ordered = sorted(numbers)
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if after != before + 1)]
    ends = [*(before for before, after in pairwise(ordered) if after != before + 1), ordered[-1]]
    return " ".join(
        str(first) if first == last else f"{first}-{last}" for first, last in zip(starts, ends, strict=True)
    )


def _imagenet() -> list[str]:
    return list(ImageNetInfo("imagenet-1k").label_names())


def _lines(file: Path) -> Iterator[str]:
    """The lines of a WordNet file without its license, whose lines begin with blanks."""
    return (line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("  "))


def _hypernyms(file: Path) -> Iterator[tuple[Synset, list[Synset]]]:
    """Each synset with those one level above it. wndb(5WN) describes the format."""
    for line in _lines(file):
        fields = line.partition("|")[0].split()
        pointers = 5 + 2 * int(fields[3], 16)
        symbols, targets = fields[pointers::4], fields[pointers + 1 :: 4]
        yield fields[0], [target for symbol, target in zip(symbols, targets, strict=False) if symbol in HYPERNYMS]


def _senses(file: Path) -> Iterator[tuple[str, list[Synset]]]:
    for line in _lines(file):
        fields = line.split()
        yield fields[0], fields[6 + int(fields[3]) :]


if __name__ == "__main__":
    main()
