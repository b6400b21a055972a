from collections.abc import Iterator

import pytest

from label_studio_format import labeling_config
from my_backend.diagnostics.config_problems import ConfigProblems
from my_backend.projects.project import Project
from tests.my_backend.fake_model import LABEL_CONFIG


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The labeling configs that were parsed, in order; none is cached."""
    found: list[str] = []
    parse = labeling_config._parse

    def note(xml: str, choices_name: str) -> labeling_config.LabelConfig:
        found.append(xml)
        return parse(xml, choices_name)

    monkeypatch.setattr(labeling_config, "REMEMBERED_BYTES", 0)
    monkeypatch.setattr(labeling_config, "_remembered", labeling_config._Remembered())
    monkeypatch.setattr(labeling_config, "_parse", note)
    yield found


def unusable(number: int) -> Project:
    return Project(f"{number}.1", f"<View>{number}</View>")


def test_each_config_is_parsed_once(parsed: list[str]) -> None:
    configs, projects = ConfigProblems(), [unusable(1), unusable(2), Project("3.1", LABEL_CONFIG)]

    first, again = configs.of(projects), configs.of(projects)

    assert first == again
    assert [problem.project for problem in first] == ["1.1", "2.1"]
    assert len(parsed) == 3


def test_changed_config_is_parsed_again(parsed: list[str]) -> None:
    configs = ConfigProblems()
    configs.of([unusable(1)])

    assert configs.of([Project("1.1", LABEL_CONFIG)]) == []
    assert len(parsed) == 2


def test_forgotten_projects_take_no_memory() -> None:
    configs = ConfigProblems()
    projects = [unusable(number) for number in range(3)]
    configs.of(projects)
    del projects[1:]

    assert list(configs._known) == projects


def test_a_call_parses_few_characters_and_later_calls_the_rest(
    parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    projects = [unusable(number) for number in range(1, 6)]
    monkeypatch.setattr("my_backend.diagnostics.config_problems.MOST_TO_PARSE", 2 * len(projects[0].label_config))
    large = Project("6.1", f"<View>{'large' * 20}</View>")
    configs = ConfigProblems()

    known = [len(configs.of([*projects, large])) for _ in range(5)]

    assert known == [2, 4, 5, 6, 6]
    assert len(parsed) == 6


def test_only_one_thread_parses() -> None:
    configs = ConfigProblems()
    with configs._parsing:
        assert configs.of([unusable(1)]) == []

    assert len(configs.of([unusable(1)])) == 1
