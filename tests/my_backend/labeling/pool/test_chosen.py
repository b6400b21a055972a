"""Groups of images that a person has chosen: the proposal, the order, and copies."""

from collections.abc import Sequence
from typing import Any

from my_backend.labeling.pool.chosen import chosen_groups
from my_backend.serving.image_pool import ImagePool, LookAlikes
from my_backend.serving.model_api import ModelAPI


class Told(ImagePool):
    """A pool in which a test says what the model answers, with its probability, and which images are copies."""

    def __init__(self, answers: dict[int, tuple[str, float]], copies: Sequence[Sequence[int]] = ()) -> None:
        self.told, self.same = answers, copies

    def answers(self, model: Any, images: Sequence[int]) -> list[tuple[str, float]]:
        return [self.told[image] for image in images] if self.told else []

    def probabilities(self, model: Any, images: Sequence[int]) -> list[dict[str, float]]:
        others = {"Cat": "Dog", "Dog": "Cat"}
        return [{name: sure, others[name]: round(1 - sure, 2)} for name, sure in self.answers(model, images)]

    def copies(self, image: int) -> list[int]:
        return [other for group in self.same if image in group for other in group if other != image]

    def _unused(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    suits = add = groups = first = near_duplicates = most_alike = _unused


def groups(pool: Told, images: Sequence[int], largest: int = 10, count: int = 2) -> list[tuple[LookAlikes, list[Any]]]:
    return chosen_groups(pool, ModelAPI(), images, largest=largest, count=count)


def test_proposal_is_the_most_frequent_answer_with_surest_images_first() -> None:
    pool = Told({1: ("Cat", 0.6), 2: ("Dog", 0.9), 3: ("Cat", 0.8), 4: ("Cat", 0.7), 5: ("Dog", 0.55)})
    [(group, copies)] = groups(pool, [5, 4, 3, 2, 1])
    assert group == LookAlikes([3, 4, 1, 5, 2], "Cat", [0.8, 0.7, 0.6, 0.45, 0.1])
    assert copies == [[], [], [], [], []]


def test_many_images_come_in_several_groups_each_with_its_own_proposal() -> None:
    pool = Told({image: ("Cat", 0.6) if image < 4 else ("Dog", 0.9) for image in range(1, 8)})
    found = groups(pool, [1, 2, 3, 4, 5, 6, 7, 7], largest=2, count=3)
    assert [(group.images, group.proposal) for group, _ in found] == [([4, 5], "Dog"), ([1, 2], "Cat"), ([6, 7], "Dog")]
    assert len(groups(pool, [1, 2, 3], largest=2, count=1)) == 1
    assert groups(pool, []) == []


def test_without_a_model_there_is_no_proposal() -> None:
    [(first, _), (second, _)] = groups(Told({}), [7, 3, 5], largest=2)
    assert first == LookAlikes([3, 5], None, [None, None])
    assert second.images == [7]


def test_image_stands_for_its_chosen_copies_with_the_same_answer() -> None:
    pool = Told({1: ("Cat", 0.9), 2: ("Cat", 0.8), 3: ("Dog", 0.6), 4: ("Cat", 0.7)}, [[1, 2, 3, 9], [4, 8]])
    [(group, copies)] = groups(pool, [1, 2, 3, 4])
    assert dict(zip(group.images, copies, strict=True)) == {1: [2], 3: [], 4: []}
