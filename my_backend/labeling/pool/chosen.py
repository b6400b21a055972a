"""Images that a person has chosen, for example on the map, as groups that get one label each."""

from collections import Counter
from collections.abc import Mapping, Sequence

from my_backend.serving.image_pool import ImagePool, LookAlikes
from my_backend.serving.model_api import ModelAPI

Predictions = Mapping[int, tuple[str, float]]  # choice and probability by image; {} without a model
Copies = list[list[int]]  # of each image of a group
UNKNOWN = ("", 0.0)


def chosen_groups(
    pool: ImagePool, model: ModelAPI, images: Sequence[int], *, largest: int, count: int
) -> list[tuple[LookAlikes, Copies]]:
    """The first groups of the images, at most `count`, with the copies of each image.

    The suggested label is the most frequent prediction for the images that are left; the surest come first. Images that
    aren't chosen don't count as copies.
    """
    predictions = dict(zip(images, pool.answers(model, images), strict=False))
    copies = _copies(pool, sorted(images), predictions)
    left, groups = list(copies), list[tuple[LookAlikes, Copies]]()
    while left and len(groups) < count:
        group, left = _first(pool, model, left, predictions, largest)
        groups.append((group, [copies[image] for image in group.images]))
    return groups


def _copies(pool: ImagePool, images: Sequence[int], predictions: Predictions) -> dict[int, list[int]]:
    """The images that stand for others or for none, with their copies, to which the model gives the same answer."""
    left, copies = set(images), dict[int, list[int]]()
    for image in images:
        if image in left:
            answer, _ = predictions.get(image, UNKNOWN)
            same = [copy for copy in pool.copies(image) if copy in left and predictions.get(copy, UNKNOWN)[0] == answer]
            copies[image] = same
            left.difference_update(same)
            left.discard(image)
    return copies


def _first(
    pool: ImagePool, model: ModelAPI, images: Sequence[int], predictions: Predictions, largest: int
) -> tuple[LookAlikes, list[int]]:
    """The next group of the images, and those that are left."""
    known = Counter(predictions[image][0] for image in images if image in predictions)
    if not known:
        group = list(images[:largest])
        return LookAlikes(group, None, [None] * len(group)), list(images[largest:])
    [(proposal, _)] = known.most_common(1)

    def doubt(image: int) -> tuple[bool, float]:
        answer, probability = predictions.get(image, UNKNOWN)
        return answer != proposal, -probability if answer == proposal else probability

    ordered = sorted(images, key=doubt)
    group, left = ordered[:largest], ordered[largest:]
    said = pool.probabilities(model, group)
    sure = {image: one.get(proposal, 0.0) for image, one in zip(group, said, strict=True)}
    group.sort(key=lambda image: -sure[image])
    return LookAlikes(group, proposal, [sure[image] for image in group]), left
