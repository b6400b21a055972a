"""The endpoint that checks a labeling config before it is saved."""

from label_studio_format.labeling_config import parse_label_config
from my_backend.settings import Settings
from my_backend.web.api.responses import Answer
from my_backend.web.bodies import Json, ValidateRequest
from my_backend.web.endpoint import endpoint

LABELING_CONFIG_BYTES = 8_000_000


class Validity(Answer):
    """Whether the backend can learn from a labeling config, and why not."""

    valid: bool
    """Whether the backend can learn from the labeling config."""

    message: str
    """Why it can't; empty if it can."""

    choices: list[str]
    """The choices that the labeling config offers."""


class LabelingConfigEndpoints:
    """Works without a project."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @endpoint("POST", "/validate", answers={200: Validity}, max_body=LABELING_CONFIG_BYTES)
    def validate(self, body: ValidateRequest) -> Json:
        """Whether the backend can learn from a labeling config, and why not."""
        config = parse_label_config(body.config, self._settings.choices)
        return {
            "valid": config.image_choices is not None,
            "message": config.problem,
            "choices": list(config.choices),
        }
