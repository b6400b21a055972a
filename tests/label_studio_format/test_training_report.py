"""The report on a training's annotations: numbers, and text for annotators."""

from label_studio_format.annotations import Label
from label_studio_format.training_report import Usage, tally_of

USED = Label("used", frozenset(["Cat"]))


def unknown(*names: str) -> Label:
    return Label("unknown choice", unknown=frozenset(names))


def usage_of(labels: list[Label]) -> Usage:
    return Usage([tally_of(labels)], "animal")


def test_what_was_used_and_left_out_is_counted_and_said() -> None:
    usage = Usage(
        [tally_of([USED, USED, Label("skipped"), Label("tie"), unknown("Dog"), unknown("Dog", "Cow")])], "animal"
    )

    assert usage.record() == {
        "annotations": {"used": 2, "skipped": 1, "tie": 1, "unknown choice": 2},
        "unknown_choices": {"Dog": 2, "Cow": 1},
    }
    assert usage.summary((), ("Cat",), ("Cat",)) == (
        "Learned from 2 of 6 annotated tasks. Left out: 1 skipped, 1 tied, 2 with an unknown choice. "
        "Some annotations use choices that no longer exist: Dog (2×), Cow (1×). If you renamed a choice, "
        "add its old name to the new Choice as predicted_values to keep these annotations."
    )


def test_rejected_annotations_are_said_to_be_left_out() -> None:
    usage = usage_of([USED, Label("rejected"), Label("rejected")])

    assert usage.record()["annotations"] == {"used": 1, "rejected": 2}
    assert usage.summary((), ("Cat",), ("Cat",)) == "Learned from 1 of 3 annotated tasks. Left out: 2 rejected."


def test_what_is_all_right_is_not_talked_about() -> None:
    assert usage_of([USED]).summary(("Cat",), ("Cat",), ("Cat",)) == "Learned from 1 of 1 annotated tasks."
    assert usage_of([USED]).left_out() == ""


def test_choices_that_came_went_and_wait_are_named_in_order() -> None:
    said = usage_of([USED]).summary(("Cow", "Cat", "Ant"), ("Cat", "Bee"), ("Yak", "Cat", "Bee", "Emu"))

    assert said.endswith(
        "New since the previous version: Bee. No longer predicted: Cow, Ant. No annotations yet: Yak, Emu."
    )


def test_many_and_long_names_are_cut() -> None:
    said = usage_of([unknown(*(f"{n:02} {'x' * 500}" for n in range(30)))]).left_out()

    assert "and 20 more" in said
    assert len(said) < 1200


def test_annotations_of_another_tag_are_said_to_be_left_out() -> None:
    other = Label("other tag", other_tags=frozenset(["label"]))
    usage = usage_of([USED, other, other])

    assert usage.record()["annotations"] == {"used": 1, "other tag": 2}
    assert usage.summary((), ("Cat",), ("Cat",)) == (
        "Learned from 1 of 3 annotated tasks. Left out: 2 annotated with another tag. "
        "This model is trained on the tag animal, but "
        "some tasks were annotated with another tag: label (2×). If you renamed the tag, give it its old name; to "
        "train on another tag, set CHOICES to its name."
    )


def test_tasks_that_were_counted_before_are_included() -> None:
    labels = [USED, Label("tie"), unknown("Dog"), Label("other tag", other_tags=frozenset(["label"]))]
    whole, added = usage_of(3 * labels), usage_of(labels)

    for _ in range(2):
        added.include(tally_of(labels))

    assert (added.record(), added.left_out()) == (whole.record(), whole.left_out())
