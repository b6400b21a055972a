"""A classifier's answers, of the choices that are offered."""

import pytest
import torch

from image_classifier.evaluation.predict import ChoiceProbabilities, choose
from image_classifier.nets.classifier import Backbone, Classifier, Head

# Each class's logit is one number of the embedding.
EYE = torch.eye(3)


def classifier(backbone: Backbone, *, thresholds: tuple[float, ...] = ()) -> Classifier:
    head = Head(EYE, torch.zeros(3), thresholds=thresholds)
    return Classifier(backbone, head, head, ("cat", "kitty", "dog"), {})


def named(name: str) -> str:
    return {"cat": "Cat", "kitty": "Cat", "dog": "Dog"}[name]


def test_classes_that_mean_the_same_choice_are_added_up(backbone: Backbone) -> None:
    answer = choose(classifier(backbone), named, multiple=False, embeddings=torch.zeros(1, 3))
    assert answer.names == ["Cat", "Dog"]
    assert answer.probabilities[0].tolist() == pytest.approx([2 / 3, 1 / 3])
    assert answer.chosen("probability") == [(["Cat"], 0.6667)]
    assert answer.chosen("margin") == [(["Cat"], 0.3333)]


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "doubt"),
    [
        ([0.6, 0.3, 0.1], None, 0.7),  # of the first two choices
        ([1.0], None, 0.0),
        ([0.9, 0.05, 0.6], [0.5] * 3, 0.8),  # of the last one, which is nearly a coin toss
    ],
)
def test_doubt_is_large_if_an_answer_is_nearly_another(
    probabilities: list[float], thresholds: list[float] | None, doubt: float
) -> None:
    names = [str(number) for number in range(len(probabilities))]
    answer = ChoiceProbabilities(
        names, torch.tensor([probabilities]), None if thresholds is None else torch.tensor(thresholds)
    )
    assert answer.doubt().tolist() == pytest.approx([doubt])


def test_what_is_not_offered_takes_no_probability(backbone: Backbone) -> None:
    def offered(name: str) -> str:
        return "" if name == "kitty" else name

    answer = choose(classifier(backbone), offered, multiple=False, embeddings=torch.tensor([[0.0, 9.0, 0.0]]))
    assert answer.names == ["cat", "dog"]
    assert answer.probabilities[0].tolist() == pytest.approx([0.5, 0.5])


def test_several_choices_may_be_right_or_none(backbone: Backbone) -> None:
    several = classifier(backbone, thresholds=(0.5, 0.5, 0.9))
    answer = choose(several, named, multiple=True, embeddings=torch.tensor([[3.0, -3.0, 1.0], [-3.0, -3.0, -3.0]]))
    assert [names for names, _ in answer.chosen("probability")] == [["Cat"], []]
    assert answer.chosen("probability")[0][1] == pytest.approx(1 / (1 + torch.e), abs=1e-4)  # that no dog is there


def test_without_a_known_choice_there_is_no_answer(backbone: Backbone) -> None:
    answer = choose(classifier(backbone), lambda name: "", multiple=False, embeddings=torch.zeros(2, 3))
    assert (answer.names, len(answer.probabilities)) == ([], 2)
