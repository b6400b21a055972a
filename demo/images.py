"""The demo's images: scikit-learn's digits, or the user's own in one folder per class."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

from image_classifier.data.folders import list_folder, shown
from image_classifier.errors import UsersError
from testing.digits import LABEL_CONFIG, write_digits

MOST = 2000  # of the user's images; more would take minutes to train on
ANNOTATED = 300  # at most, and at most half of the images


@dataclass(frozen=True)
class Images:
    """Images below a folder and their labels, in random order; the first `annotated` ones are annotated."""

    title: str
    label_config: str
    from_name: str  # of the labeling config's Choices
    folder: Path
    paths: list[Path]
    labels: list[str]

    @property
    def annotated(self) -> int:
        return min(ANNOTATED, len(self.paths) // 2)


def digits(folder: Path) -> Images:
    """Writes the digits to a folder."""
    # They go from writer to writer, and mostly count from 0 to 9.
    paths, labels = _shuffled(write_digits(folder))
    return Images("Handwritten digits", LABEL_CONFIG, "digit", folder, paths, labels)


def own_images(folder: Path) -> Images:
    """The images in a folder with a subfolder for each class, or a random part of them; raises UsersError."""
    folder = folder.resolve()
    listing = list_folder(folder)
    paths, labels = _shuffled([(path, name) for name, found in listing.classes.items() for path in found])
    if not paths:
        raise UsersError(
            f"{shown(folder)} has no images in its subfolders: pass a folder with a subfolder for each class"
        )
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in listing.classes)
    label_config = f"""\
<View>
  <Image name="image" value="$image" maxWidth="640px"/>
  <Choices name="class" toName="image" choice="single" showInline="true">
{choices}
  </Choices>
</View>
"""
    title = f"{folder.name} (demo)"[:50]  # the longest title that Label Studio accepts
    return Images(title, label_config, "class", folder, paths[:MOST], labels[:MOST])


def _shuffled(labeled: Sequence[tuple[Path, str]]) -> tuple[list[Path], list[str]]:
    order = random.Random(0).sample(labeled, len(labeled))  # noqa: S311
    return [path for path, _ in order], [label for _, label in order]
