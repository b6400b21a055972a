"""Errors that a person at the command line can fix."""


class UsersError(ValueError):
    """An error with one sentence: what is wrong, and how to fix it."""
