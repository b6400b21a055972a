"""The classifier's settings, read from the environment once per process."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from label_studio_format.env_file import EnvSettings
from label_studio_format.pasted_values import check_visible, in_home, trimmed

TrainMode = Literal["auto", "head", "full"]
Score = Literal["order", "probability", "margin", "entropy"]

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class ClassifierSettings(EnvSettings):
    """The classifier's settings."""

    network: str = Field(
        "resnet18",
        description="one of torchvision's classification networks (resnet50, efficientnet_b0, vit_b_16, …), or `timm:` "
        "and the name of one of timm's networks, or `open_clip:NAME:TAG` for one of OpenCLIP's",
    )
    weights: str = Field(
        "imagenet",
        description="`imagenet` (the network's own pretrained weights), `none` (random), a weights file of the "
        "network, or `package:` and the name of an installed package that contains one",
    )
    image_size: PositiveInt | None = Field(
        None,
        description="side length of the network's square input in pixels; by default the network's own, 224 for "
        "resnet18",
    )
    train_mode: TrainMode = Field(
        "auto",
        description="`head`: train the last layer; `full`: train the last layer, then all layers, and keep "
        "the second result if it is clearly better; `auto`: `full` if there are enough labels",
    )
    epochs: PositiveInt = Field(
        25,
        description="passes over the training images; when the last layer is trained, each pass takes at least "
        "12 steps",
    )
    batch_size: PositiveInt = Field(32, description="images per training step; when all layers are trained, at least 2")
    learning_rate: PositiveFloat = Field(
        0.001, description="learning rate of the backbone; the head's is ten times as high"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD momentum")
    lr_step_size: PositiveInt = Field(7, description="epochs between drops of the learning rate (StepLR)")
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="factor applied to the learning rate at each drop (StepLR)"
    )
    max_image_pixels: PositiveInt = Field(
        178_956_970, description="most pixels an image may have; MAX_IMAGE_MEMORY also limits the memory it needs"
    )
    max_image_memory: PositiveInt = Field(
        1_500_000_000,
        description="bytes of memory for all images that a process decodes at the same time; other images wait, and "
        "one that needs more is refused",
    )
    score: Score = Field(
        "order",
        description="meaning of a prediction's score: `probability`, `margin`, `entropy`, or `order` (with "
        "RENEW_PREDICTIONS, the task's place in the labeling order; otherwise, the probability)",
    )
    choices: str = Field(
        "", description="name of the Choices or Taxonomy tag to train on if a labeling config has several"
    )
    cache_dir: Path = Field(
        Path("~/.cache/image-classifier"),
        description="folder for cached embeddings; each host needs its own, never on NFS",
    )

    @model_validator(mode="before")
    @classmethod
    def _trim(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Trims values; a blank value counts as unset, like an empty one."""
        values = {name: trimmed(value) if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in values.items() if value != ""}

    @field_validator("cache_dir")
    @classmethod
    def _in_home(cls, value: Path) -> Path:
        return in_home(value)

    @field_validator("*", mode="before")
    @classmethod
    def _check_visible(cls, value: object) -> object:
        """Runs before all other validators because it is defined last."""
        if isinstance(value, str):
            check_visible(value)
        return value
