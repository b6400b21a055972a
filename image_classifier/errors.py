"""Errors that a person at the command line can fix."""


class UsersError(ValueError):
    """An error with one sentence: what is wrong, and how to fix it."""


class TooFewLabels(UsersError):
    """There are too few labels to train on; the message says what is missing."""
