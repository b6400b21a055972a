"""The tasks: real pictures from two Debian packages, scikit-learn's digits, and canvases with several pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from image_classifier.data.dataset import Label
from testing.digits import write_digits

CLIP_ART = "usr/share/openclipart/png"
STAMPS = "usr/share/tuxpaint/stamps"
MOST = 200  # pictures of a class that are kept; half as many more are looked at, since some are near-duplicates


@dataclass(frozen=True)
class Task:
    """Pictures and their labels."""

    name: str
    paths: tuple[Path, ...]
    labels: tuple[Label, ...]
    most: int | None = MOST  # pictures of a class, once near-duplicates are gone


# Class → folders of the package, separated by spaces.
THEMES = {
    "animals": "animals",
    "food": "food",
    "people": "people",
    "plants": "plants",
    "music": "recreation/music",
    "sports": "recreation/sports",
    "transport": "transportation",
    "buildings": "buildings",
    "flags": "signs_and_symbols/flags",
    "tools": "tools",
    "office": "office",
    "computer": "computer",
}
FINE = {
    "fruit": "food/fruit",
    "desserts": "food/desserts",
    "drinks": "food/beverages",
    "meat and eggs": "food/meats_and_eggs",
    "bread": "food/breads_and_carbs",
    "mammals": "animals/mammals",
    "birds": "animals/birds",
    "bugs": "animals/bugs",
    "flowers": "plants/flowers",
    "homes": "buildings/homes",
    "weapons": "tools/weapons",
    "boats": "transportation/boating",
    "vehicles": "transportation/vehicles",
}
STAMP_CLASSES = {
    "mammals": "animals/mammals",
    "birds": "animals/birds",
    "insects": "animals/insects",
    "sea and water": "animals/fish animals/shellfish animals/amphibians",
    "fruit and vegetables": "food",
    "plants": "plants",
    "household": "household",
    "vehicles": "vehicles military/vehicles",
    "buildings": "town/houses town/cartoon town/monuments",
    "money": "symbols/money",
    "seasonal": "seasonal",
}
RARE = {
    "other": "computer signs_and_symbols recreation transportation tools office",
    "animals": "animals",
    "plants": "plants",
}
RARE_MOST = 1400  # so that plants are 4% and animals 15%

MULTI = ("animals", "food", "people", "plants", "music", "transport", "flags", "tools")  # those of THEMES
MULTI_IMAGES = 1600
CANVAS = 320  # pixels
PICTURE = (100, 158)  # the long side of a picture on it, at least and at most


def all_tasks(pictures: Path, folder: Path) -> list[Task]:
    """Each task; generated pictures are written to `folder`."""
    clip_art, stamps = pictures / CLIP_ART, pictures / STAMPS
    themes = _from_folders("themes", clip_art, THEMES)
    digits = write_digits(folder / "digits")
    return [
        themes,
        _from_folders("fine", clip_art, FINE),
        _from_folders("stamps", stamps, STAMP_CLASSES),
        _from_folders("rare", clip_art, RARE, most=RARE_MOST),
        Task("digits", tuple(path for path, _ in digits), tuple(label for _, label in digits), None),
        _multi(themes, folder / "multi"),
    ]


def _from_folders(name: str, root: Path, classes: dict[str, str], most: int = MOST) -> Task:
    paths: list[Path] = []
    labels: list[Label] = []
    for label, folders in classes.items():
        found = [path for folder in folders.split() for path in (root / folder).rglob("*.png")]
        if not found:
            raise FileNotFoundError(
                f"{root} has no pictures of {label}: see docs/project/learning.md for how to get them"
            )
        # The order depends only on the names, not on the file system.
        found.sort(key=lambda path: sha256(str(path.relative_to(root)).encode()).digest())
        kept = found[: most + most // 2]
        paths += kept
        labels += [label] * len(kept)
    return Task(name, tuple(paths), tuple(labels), most)


def _multi(themes: Task, folder: Path) -> Task:
    """Canvases with 0 to 3 pictures of different kinds; the same picture may be on several of them."""
    folder.mkdir(parents=True, exist_ok=True)
    of = {name: [p for p, label in zip(themes.paths, themes.labels, strict=True) if label == name] for name in MULTI}
    paths: list[Path] = []
    labels: list[Label] = []
    for number in range(MULTI_IMAGES):
        random = np.random.default_rng(number)
        chosen = [str(name) for name in random.choice(MULTI, int(random.integers(4)), replace=False)]
        pictures = [of[name][int(random.integers(len(of[name])))] for name in chosen]
        path = folder / f"{number:04d}.png"
        if not path.exists():
            _compose(pictures, random).save(path)
        paths.append(path)
        labels.append(frozenset(chosen))
    return Task("multi", tuple(paths), tuple(labels), None)


def _compose(pictures: Sequence[Path], random: np.random.Generator) -> Image.Image:
    """Puts each picture into its own quarter, so that none hides another."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    quarters = random.permutation(4)
    half = CANVAS // 2
    for path, quarter in zip(pictures, quarters, strict=False):
        with Image.open(path) as image:
            picture = image.convert("RGBA")
        picture.thumbnail((size := int(random.integers(*PICTURE)), size))
        left, top = (half * (int(quarter) % 2), half * (int(quarter) // 2))
        x, y = (int(random.integers(half - side + 1)) for side in picture.size)
        canvas.paste(picture, (left + x, top + y), picture)
    return canvas
