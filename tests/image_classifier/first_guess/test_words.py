"""Choices named by ordinary words, and the ImageNet classes that are kinds of them."""

import re

import pytest
import torchvision

from image_classifier.first_guess import words
from image_classifier.first_guess.words import classes_of_choices

NAMES = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]  # of ImageNet's classes, in their order


def found(*choices: str) -> dict[str, set[str]]:
    """The names of the classes of each choice that has any."""
    numbers = classes_of_choices({choice: [choice] for choice in choices})
    return {choice: {NAMES[number] for number in some} for choice, some in numbers.items()}


def test_kinds_of_a_word_are_those_below_it_in_wordnet() -> None:
    breeds = found("Dog")["Dog"]
    assert len(breeds) == 118
    assert {"Chihuahua", "pug", "dalmatian"} <= breeds
    assert not breeds & {"timber wolf", "red fox", "tabby"}
    assert found("zebra") == {"zebra": {"zebra"}}


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        ("DOGS", "dog"),
        ("boxes", "box"),
        ("wolves", "wolf"),
        ("mice", "mouse"),
        ("Strawberries", "strawberry"),
        ("sports_car", "sports car"),
        ("  sports   cars ", "sports car"),
        ("hot dog", "hotdog"),
    ],
)
def test_spelling_and_number_of_a_word_do_not_matter(choice: str, word: str) -> None:
    assert found(choice)[choice] == found(word)[word]


@pytest.mark.parametrize(
    "choice", ["fruit and vegetables", "Fruit & Vegetables", "vegetable/fruit", "fruit, vegetables"]
)
def test_several_words_have_the_classes_of_all(choice: str) -> None:
    assert found(choice)[choice] == found("fruit")["fruit"] | found("vegetable")["vegetable"]


def test_class_belongs_to_the_choice_with_the_fewest_classes() -> None:
    both = found("Animal", "Bird", "robin")
    assert both["robin"] == {"robin"}
    assert {"goldfinch", "ostrich"} <= both["Bird"]
    assert not both["Animal"] & (both["Bird"] | both["robin"])
    assert both["Animal"] | both["Bird"] | both["robin"] == found("Animal")["Animal"]
    assert set(found("dog", "Dogs")) == {"dog"}, "one of two names for the same has all"


@pytest.mark.parametrize(
    "choice", ["", "7", "Hund", "not a dog", "No cat", "defect", "dogcat", "s", "and", "/", "dog" * 10_000, "\x00", "#"]
)
def test_other_names_have_no_classes(choice: str) -> None:
    assert found(choice) == {}


def test_first_name_of_a_choice_that_is_known_counts() -> None:
    assert classes_of_choices({"Hund": ["Hund", "dog", "cat"]})["Hund"] == classes_of_choices({"dog": ["dog"]})["dog"]


def test_table_has_only_classes_of_imagenet_and_its_license() -> None:
    table = words._words()
    assert 3000 < len(table) < 4000
    assert {number for numbers in table.values() for number in numbers} == set(range(1000))
    assert all(re.fullmatch(r"[^A-Z_\t]+", word) for word in table)
    license_text = (words.files(words.__package__) / "words-LICENSE.txt").read_text()
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in license_text
