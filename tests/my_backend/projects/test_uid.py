"""How a project is identified."""

import pytest

from my_backend.projects.uid import project_uid


def test_webhooks_project_is_the_one_of_setup_and_predict() -> None:
    described = {"id": 2, "created_at": "2026-11-20T13:35:51.342017Z"}

    assert project_uid(described) == "2.1795181751"


@pytest.mark.parametrize(
    "described",
    [
        {"id": 7},
        {"created_at": "2026-11-20T13:35:51Z"},
        {"id": None, "created_at": "2026-11-20T13:35:51Z"},
        {"id": "../7", "created_at": "2026-11-20T13:35:51Z"},
        {"id": -7, "created_at": "2026-11-20T13:35:51Z"},
        {"id": 10**80, "created_at": "2026-11-20T13:35:51Z"},
        {"id": float("inf"), "created_at": "2026-11-20T13:35:51Z"},
        {"id": 7, "created_at": "yesterday"},
        {"id": 7, "created_at": 5},
        {"id": 7, "created_at": "0001-01-01T00:00:00"},
    ],
)
def test_project_that_cannot_be_named_is_a_value_error(described: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="id"):
        project_uid(described)
