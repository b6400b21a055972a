"""How to learn and classify: the environment, read once by whoever starts a process."""

import string
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

TrainMode = Literal["auto", "head", "full"]
Score = Literal["probability", "margin", "entropy"]

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

# What stands around values that are pasted: blanks, ends of lines, invisible characters, quotes.
_AROUND = string.whitespace + "\xa0\u200b\u200c\u200d\u2060\ufeff\"'`“”‘’„«»"


class ClassifierSettings(BaseSettings):
    """Each field is the environment variable of the same name in capitals, or a line of `.env`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8-sig",  # Windows' editors begin a file with a mark
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    network: str = Field(
        "resnet18", description="a classification network of torchvision: resnet50, efficientnet_b0, vit_b_16, …"
    )
    weights: str = Field(
        "imagenet", description="`imagenet`, `none` (random), or a .safetensors or .pth file of the network"
    )
    image_size: PositiveInt | None = Field(
        None, description="side in pixels of the square the network sees; by default its own, 224 for resnet18"
    )
    train_mode: TrainMode = Field("auto", description="`head`: the last layer; `full`: all layers; `auto` decides")
    epochs: PositiveInt = Field(25, description="passes over the training images; of the head at least 12 steps each")
    batch_size: PositiveInt = Field(32, description="images in one step of SGD")
    learning_rate: PositiveFloat = Field(0.001, description="of the body; the head learns at ten times this rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD")
    lr_step_size: PositiveInt = Field(7, description="epochs after which StepLR lowers the learning rate")
    lr_gamma: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="factor by which StepLR lowers it")
    max_image_pixels: PositiveInt = Field(
        178_956_970, description="larger images are refused; how much memory they may take is MAX_IMAGE_MEMORY"
    )
    max_image_memory: PositiveInt = Field(
        1_500_000_000,
        description="bytes for all images that a process decodes at the same time; others wait, and larger ones are "
        "refused",
    )
    score: Score = Field(
        "probability", description="what a prediction's score says: `probability`, `margin`, `entropy`"
    )
    choices: str = Field("", description="name of the Choices tag to learn, where a labeling config has several")
    cache_dir: Path = Field(Path("~/.cache/image-classifier"), description="embeddings, per host, never on NFS")

    @model_validator(mode="before")
    @classmethod
    def _trim(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A value that is blank counts as not given, as an empty one does."""
        values = {name: value.strip(_AROUND) if isinstance(value, str) else value for name, value in given.items()}
        return {name: value for name, value in values.items() if value != ""}
