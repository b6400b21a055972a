"""What a model class provides to compare the images of a project: groups of look-alikes, and similar images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class LookAlikes:
    """Images that probably get the same choice, by their numbers in the pool, the most certain first."""

    images: list[int]
    proposal: str | None  # the choice; None if there is no proposal
    probabilities: list[float | None]  # that each image gets the proposed choice


class ImagePool(ABC):
    """The images of a project, labeled or not, by the numbers in which they were added, from 0.

    Only one thread at a time adds images; others may read meanwhile.
    """

    @abstractmethod
    def suits(self, model: Any) -> bool:
        """Whether an instance of the model class can predict these images without reading them again."""

    @abstractmethod
    def add(self, tasks: Sequence[Json], check: Callable[[], None]) -> list[str | None]:
        """Adds the tasks' images, and returns the SHA-256 (hexadecimal) of each; None for one that can't be read.

        Those that can be read get the next numbers; after an exception, none of them has one. `check` is called
        regularly: it raises an exception to stop; don't catch it.
        """

    @abstractmethod
    def groups(
        self,
        model: Any,
        unlabeled: Sequence[int],
        labels: Mapping[int, str],
        past: Sequence[tuple[int, float]],
        *,
        largest: int,
        count: int,
    ) -> list[LookAlikes]:
        """The groups to label next, at most `count`; no image is in two of them.

        `model` is an instance of the model class for which `suits` is true. `labels` are choices by image. `past` has,
        for each earlier group with a suggested label, how many images got another choice, and how many were expected
        to. No group has more than `largest` images.
        """

    @abstractmethod
    def first(self, model: Any, unlabeled: Sequence[int], known: Sequence[int], count: int) -> list[int]:
        """The unlabeled images to label first, at most `count`, in this order.

        `model` is as for `groups`. `known` are the images that have a label, or will get one before these.
        """

    @abstractmethod
    def probabilities(self, model: Any, images: Sequence[int]) -> list[dict[str, float]]:
        """For each image, the probability of each choice that the model knows; {} without one."""

    @abstractmethod
    def answers(self, model: Any, images: Sequence[int]) -> list[tuple[str, float]]:
        """The choice that a model predicts for each image, and its probability; [] if the model knows no choice.

        `model` is like that of `groups`.
        """

    @abstractmethod
    def near_duplicates(self, tasks: Iterable[Json], check: Callable[[], None]) -> list[str | None]:
        """The group of near-duplicates that each task's image belongs to, by any name; None if it can't be read.

        `tasks` can be read only once, a part at a time, because their URLs may contain whole images. `check` is like
        that of `add`.
        """

    def copies(self, image: int) -> Sequence[int]:
        """The other images in the pool that show the same thing, so one label is right for all; by default none."""
        return ()

    def positions(self, images: Sequence[int]) -> Sequence[tuple[float, float]]:
        """Where images are on a map, from -1 to 1: look-alikes are near each other. By default, there is no map: []."""
        return ()

    def arrange(self, check: Callable[[], None]) -> None:  # noqa: B027  the default is to do nothing
        """Finds better positions for the images in the pool, which may take a minute; by default does nothing.

        Called by the thread that adds images, once someone has requested the map, and again when there are a fifth
        more images. `check` is like that of `add`.
        """

    def strangeness(self, images: Sequence[int], labeled: Sequence[int]) -> Sequence[float]:
        """How little each image resembles the labeled ones except itself, by any measure.

        By default, images aren't compared: [].
        """
        return ()

    def memory(self, images: int) -> int:
        """The bytes that so many images take in this pool, by default 1,500 each."""
        return 1500 * images

    @abstractmethod
    def most_alike(self, image: int, among: Sequence[int], count: int) -> list[tuple[int, float]]:
        """The images in `among` most similar to an image, with their similarity (at most 1), the most similar first."""


def without_copies(pool: ImagePool, images: Sequence[int]) -> list[int]:
    """These images, except those that are copies of another one of them with a smaller number."""
    among = set(images)
    return [image for image in images if not any(copy < image and copy in among for copy in pool.copies(image))]
