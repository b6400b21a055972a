"""Labeling configs are validated before they are saved."""

import pytest

from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.fake_model import LABEL_CONFIG


@pytest.mark.parametrize(("config", "valid"), [(LABEL_CONFIG, True), ("<View/>", False), ("", False), ("<View", False)])
def test_labeling_config_is_validated_before_it_is_saved(client: Client, config: str, valid: bool) -> None:
    answer = client.post("/validate", {"config": config})

    assert answer == {
        "valid": valid,
        "message": answer["message"],
        "choices": ["Cat", "Dog"] if valid else [],
    }
    assert bool(answer["message"]) is not valid


def test_choices_that_are_nested_too_deep_are_said_to_be(client: Client) -> None:
    nested = '<Choice value="A">' * 5000 + "</Choice>" * 5000
    config = f'<View><Image name="i" value="$i"/><Choices name="c" toName="i">{nested}</Choices></View>'

    assert "nested" in client.post("/validate", {"config": config})["message"]
    client.post("/setup", {"project": PROJECT, "schema": config})
    client.predict(label_config=config)
    assert "nested" in str(client.get("/health")["problems"])
