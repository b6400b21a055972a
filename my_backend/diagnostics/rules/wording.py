"""Turns clauses into sentences."""


def sentence(clause: str) -> str:
    """Capitalizes a clause and ends it with a period."""
    return f"{clause[:1].upper()}{clause[1:].rstrip('.')}."
