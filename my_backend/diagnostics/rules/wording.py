"""Turns clauses into sentences."""


def sentence(clause: str) -> str:
    """Capitalizes a clause and ends it with a period."""
    return ended(f"{clause[:1].upper()}{clause[1:]}")


def ended(clause: str) -> str:
    """The clause with a period, unless it asks a question."""
    return clause if clause.endswith("?") else f"{clause.rstrip('.')}."
