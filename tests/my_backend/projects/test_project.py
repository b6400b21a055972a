"""What a project owns."""

from my_backend.projects.registry import Projects
from tests.my_backend.conftest import PROJECT, MakeSettings

SEVERAL = """<View>
  <Image name="image" value="$image"/>
  <Choices name="animal" toName="image"><Choice value="Cat"/><Choice value="Dog"/></Choices>
  <Choices name="weather" toName="image"><Choice value="Sun"/><Choice value="Rain"/></Choices>
</View>"""


def test_config_is_that_of_the_tag_in_the_settings(make_settings: MakeSettings) -> None:
    Projects.of(make_settings()).remember(PROJECT, label_config=SEVERAL)

    default, chosen = (Projects.of(make_settings(**given)).get(PROJECT) for given in ({}, {"choices": "weather"}))

    assert default.config.choices == ("Cat", "Dog")
    assert chosen.config.choices == ("Sun", "Rain")


def test_project_opens_what_is_in_its_folder(make_settings: MakeSettings) -> None:
    projects = Projects.of(make_settings())
    project = projects.remember(PROJECT)

    project.corrections.keep(b"an image", "0" * 64, ["Cat"])
    project.annotation_log.doubt()

    assert [one.image for one in projects.get(PROJECT).corrections.newest_first()] == ["0" * 64]
    assert project.folder == projects.folder(PROJECT)
    assert project.versions.names() == []
