"""Problems with a project's labeling config."""

from collections.abc import Mapping

from label_studio_format.labeling_config import LabelConfig
from label_studio_format.training_report import no_choice_any_more
from my_backend.diagnostics.problem import Problem


def labeling_config_problems(project: str, config: LabelConfig) -> list[Problem]:
    """A config that the backend can't learn from; `project` is the project's uid."""
    if not config.problem:
        return []
    hint = (
        "In the project's Settings → Labeling Interface, choose the template Computer Vision → Image Classification, "
        "or add a Choices or Taxonomy tag whose toName is the name of an Image tag."
    )
    return [Problem("labeling-config", config.problem, hint, project)]


def unknown_choices(project: str, unknown: Mapping[str, int]) -> Problem:
    """Annotations use names that are no longer choices; `unknown` is how often each name is used."""
    return Problem("choices-unknown", *no_choice_any_more(unknown), project)
