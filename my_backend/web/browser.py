"""Tells browsers from programs: some paths answer both, and a person reads a page, not JSON."""

from flask import request


def wants_page() -> bool:
    """Whether the request comes from a browser rather than a program."""
    return request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
