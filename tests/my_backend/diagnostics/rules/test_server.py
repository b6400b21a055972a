"""The server, its settings and labeling configs → what is wrong."""

from label_studio_format.labeling_config import parse_label_config
from my_backend.diagnostics.rules.labeling_config import labeling_config_problems, unknown_choices
from my_backend.diagnostics.rules.server import OPEN_PROXY, invalid_settings, server_not_found
from tests.my_backend.conftest import PROJECT
from tests.my_backend.fake_model import LABEL_CONFIG


def test_labeling_config_that_cannot_be_used() -> None:
    assert labeling_config_problems(PROJECT, parse_label_config(LABEL_CONFIG)) == []
    [problem] = labeling_config_problems(PROJECT, parse_label_config("<View/>"))

    assert (problem.code, problem.project) == ("labeling-config", PROJECT)
    assert "The labeling config has no <Image" in problem.message
    assert "add a Choices or Taxonomy tag whose toName is the name of an Image tag" in problem.hint


def test_names_that_are_no_choice() -> None:
    problem = unknown_choices(PROJECT, {"Bird": 3})

    assert (problem.code, problem.project) == ("choices-unknown", PROJECT)
    assert problem.message == "Some annotations use choices that no longer exist: Bird (3×)."
    assert "predicted_values" in problem.hint


def test_settings_are_told_a_line_each() -> None:
    problem = invalid_settings("Invalid settings:\n  EPOCHS: is no number\n  PORT: is none, either")

    assert (problem.code, problem.message) == ("settings", "Invalid settings:")
    assert problem.details == ("EPOCHS: is no number", "PORT: is none, either")
    assert "docs/reference/settings.md" in problem.hint


def test_server_that_is_not_there_or_open_to_all() -> None:
    problem = server_not_found("http://127.0.0.1:1", "no response")

    assert problem.message == "Can't find the backend's server at http://127.0.0.1:1: no response."
    assert (problem.code, OPEN_PROXY.code) == ("server", "open-proxy")
    assert "Set BASIC_AUTH_USER and BASIC_AUTH_PASS" in OPEN_PROXY.hint
