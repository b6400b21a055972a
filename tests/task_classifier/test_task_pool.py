"""A project's images are compared by their embeddings."""

from hashlib import sha256
from typing import Any

import pytest
import torch

from image_classifier.pool.pool import Pool
from model import ImageClassifierAPI
from task_classifier import task_images
from tests.task_classifier.digit_tasks import CONFIG, Digits, Json, asked, brighter, choice, config, pooled, task


def test_pool_proposes_what_the_model_predicts(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, digests = pooled(api, [*tasks, task(98, b"no image"), {"id": 99, "data": {}}])
    assert digests == [*(sha256(path.read_bytes()).hexdigest() for path, _ in shown[30:57]), None, None]
    predicted = [choice(result) for result in api.predict(tasks)]

    labels = dict(enumerate(predicted[:9]))
    groups = pool.groups(api, range(27), labels, [], largest=30, count=3)

    proposed = {image: group.proposal for group in groups for image in group.images if group.proposal}
    assert proposed
    assert {image: predicted[image] for image in proposed} == proposed
    for group in groups:
        if group.proposal:
            assert group.probabilities == sorted(group.probabilities, reverse=True)


def test_pool_answers_as_the_model_predicts(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, _ = pooled(api, tasks)
    predicted = api.predict(tasks)

    answers = pool.answers(api, range(26, -1, -1))[::-1]

    assert [name for name, _ in answers] == [choice(result) for result in predicted]
    scores = [result["result"][0]["score"] for result in predicted]
    assert [sure for _, sure in answers] == pytest.approx(scores, abs=0.01)  # the pool has half precision
    assert pool.answers(api, []) == []
    assert pool.answers(ImageClassifierAPI(CONFIG), range(3)) == []


def test_pool_holds_no_probabilities_of_all_choices_to_answer_with_one(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ImageClassifierAPI(CONFIG, trained)
    pool, _ = pooled(api, asked(shown[30:57]))
    sizes, apply = [], Pool.apply

    def watched(self: Pool, *asked: Any) -> torch.Tensor:
        found = apply(self, *asked)
        sizes.append(found.shape)
        return found

    monkeypatch.setattr(Pool, "apply", watched)
    assert len(pool.probabilities(api, range(27))[0]) > 2
    pool.answers(api, range(27))

    assert sizes[1:] == [(27, 2)], "a map of 100,000 images with 1,000 choices would take 400 MB for each request"


def test_pool_finds_near_duplicates_of_tasks_that_are_read_once(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_classifier.task_pool.READ_AT_ONCE", 2)
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None
    paths = [path for path, _ in shown[30:33]]
    tasks = [task(n, content) for n, content in enumerate([*paths, brighter(paths[1]), b"no image", paths[0]])]

    groups = pool.near_duplicates(iter([*tasks, {"id": 9, "data": {}}]), lambda: None)

    assert groups[0] == groups[5]
    assert groups[1] == groups[3]
    assert len({*groups[:3], groups[4]}) == 4, "an image that can't be decoded resembles nothing"
    assert groups[6] is None
    assert pool.near_duplicates([], lambda: None) == []


def test_pool_knows_copies_of_images_that_can_be_read(shown: Digits) -> None:
    paths = [path for path, _ in shown[30:33]]
    contents = [paths[0], b"no image", paths[1], brighter(paths[0]), paths[2], paths[0]]
    pool, _ = pooled(ImageClassifierAPI(CONFIG), [task(n, content) for n, content in enumerate(contents)])
    pool.add(asked(shown[30:31]), lambda: None)

    assert [sorted(pool.copies(image)) for image in range(6)] == [[2, 4, 5], [], [0, 4, 5], [], [0, 2, 5], [0, 2, 4]]


def test_pool_works_before_the_first_version_and_suits_the_same_network(trained: Json, shown: Digits) -> None:
    untrained = ImageClassifierAPI(CONFIG)
    pool, _ = pooled(untrained, asked(shown[30:57]))
    [group] = pool.groups(untrained, range(27), {}, [], largest=30, count=1)
    assert (group.proposal, set(group.probabilities)) == (None, {None})
    assert pool.suits(ImageClassifierAPI(CONFIG, trained))
    assert ImageClassifierAPI("<View/>").open_pool() is None


def test_pool_gives_the_models_probabilities_and_its_unsure_images_first(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, _ = pooled(api, tasks)
    found = pool.probabilities(api, [3, 0])
    for probabilities, answer in zip(found, api.classify([tasks[3], tasks[0]]), strict=True):
        assert probabilities == pytest.approx(answer["scores"], abs=0.01)
    first = pool.first(api, range(27), [], 3)
    assert len(set(first)) == 3
    assert not set(first) & set(pool.first(api, range(20), first, 3))

    untrained = ImageClassifierAPI(CONFIG)
    assert pool.probabilities(untrained, [3, 0]) == [{}, {}]
    assert pool.probabilities(api, []) == []
    assert len(pool.first(untrained, range(27), [], 30)) == 27
    other = ImageClassifierAPI(config("7", "8"), trained)
    unknown, _ = pooled(other, tasks)
    assert unknown.probabilities(other, [0]) == [{}]
    assert len(unknown.first(other, range(27), [], 3)) == 3


def test_pool_places_images_on_a_map(trained: Json, shown: Digits) -> None:
    pool, _ = pooled(ImageClassifierAPI(CONFIG, trained), asked(shown[:20]))
    positions = pool.positions(range(20))
    assert len(set(positions)) == 20
    assert all(-1 <= value <= 1 for position in positions for value in position)
    assert pool.positions([7, 2]) == [positions[7], positions[2]]


def test_pool_can_be_stopped(trained: Json, shown: Digits) -> None:
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None

    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pool.add(asked(shown[:3]), check)


def test_pool_that_was_stopped_in_the_middle_has_lost_no_count(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_images, "READ_AT_ONCE", 2)
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None
    checks: list[int] = []

    def check() -> None:
        checks.append(0)
        if len(checks) == 2:
            raise InterruptedError

    tasks = asked(shown[:6])
    with pytest.raises(InterruptedError):
        pool.add(tasks, check)
    assert len(pool.add(tasks, check)) == 6
    assert sorted(image for image, _ in pool.most_alike(0, range(6), 6)) == [1, 2, 3, 4, 5]
    assert len(pool._pool) == 6
