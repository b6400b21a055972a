"""What a person at the command line can mend."""


class UsersError(ValueError):
    """One sentence: what is wrong, and the remedy."""
