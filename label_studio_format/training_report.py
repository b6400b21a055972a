"""Reports which annotated tasks a training run used and which it left out, as numbers and as text."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from label_studio_format.annotations import Label

KEPT_NAMES = 100
SHOWN_NAMES = 10
SHOWN_CHARACTERS = 60

_IN_WORDS = {  # outcomes that don't follow a number well
    "empty": "without a choice",
    "tie": "tied",
    "unknown choice": "with an unknown choice",
    "other tag": "annotated with another tag",
}


# How many tasks have each outcome; and how many have annotations with each unknown choice, and of each other tag.
Tally = dict[Literal["outcomes", "unknown", "other_tags"], dict[str, int]]


def tally_of(labels: Sequence[Label]) -> Tally:
    """Counts tasks by their labels."""
    return {
        "outcomes": dict(Counter(label.outcome for label in labels)),
        "unknown": dict(Counter(name for label in labels for name in label.unknown)),
        "other_tags": dict(Counter(name for label in labels for name in label.other_tags)),
    }


class Usage:
    """Counts tasks by outcome, and annotations with choices that no longer exist or of another tag than `tag`."""

    def __init__(self, tallies: Iterable[Tally], tag: str) -> None:
        """`tag` is the name of the tag that is learned."""
        self._tag = tag
        self._other_tags: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        for tally in tallies:
            self.include(tally)

    def include(self, tally: Tally) -> None:
        """Adds other tasks."""
        self.counts.update(tally["outcomes"])
        self.unknown.update(tally["unknown"])
        self._other_tags.update(tally["other_tags"])

    def record(self) -> dict[str, Any]:
        """The counts that the job and the version store."""
        return {"annotations": dict(self.counts), "unknown_choices": dict(self.unknown.most_common(KEPT_NAMES))}

    def left_out(self) -> str:
        """Which tasks were left out, and what to do about unknown choices and tags; "" if all were used."""
        left = [(why, count) for why, count in self.counts.items() if count and why != "used"]
        reasons = ", ".join(f"{count} {_IN_WORDS.get(why, why)}" for why, count in left)
        said = [f"Left out: {reasons}."] if reasons else []
        if self.unknown:
            what, remedy = no_choice_any_more(dict(self.unknown.most_common()))
            said.append(f"{what} {remedy}")
        if self._other_tags:
            counted = [f"{_shown(name)} ({count}×)" for name, count in self._other_tags.most_common()]
            said.append(
                f"This model is trained on the tag {_shown(self._tag)}, but some tasks were annotated with another "
                f"tag: {_listed(counted)}. If you renamed the tag, give it its old name; to train on another tag, set "
                "CHOICES to its name."
            )
        return " ".join(said)

    def summary(self, before: Sequence[str], learned: Sequence[str], offered: Sequence[str]) -> str:
        """A summary for people.

        `before` are the classes of the previous live version, `learned` those of the new one, and `offered` the
        labeling config's choices.
        """
        said = [f"Learned from {self.counts['used']} of {self.counts.total()} annotated tasks.", self.left_out()]
        if before:
            said.append(_named("New since the previous version", set(learned) - set(before), learned))
            said.append(_named("No longer predicted", set(before) - set(learned), before))
        said.append(_named("No annotations yet", set(offered) - set(learned), offered))
        return " ".join(filter(None, said))


def no_choice_any_more(unknown: Mapping[str, int]) -> tuple[str, str]:
    """A problem's message and fix for annotations whose names no Choice has (a version's `unknown_choices`)."""
    counted = [f"{_shown(name)} ({count}×)" for name, count in unknown.items()]
    return (
        f"Some annotations use choices that no longer exist: {_listed(counted)}.",
        "If you renamed a choice, add its old name to the new Choice as predicted_values to keep these annotations.",
    )


def _named(what: str, names: set[str], order: Sequence[str]) -> str:
    return f"{what}: {_listed([_shown(name) for name in order if name in names])}." if names else ""


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _shown(name: str) -> str:
    return name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…"
