"""A recipe: everything that defines an experiment, from the environment, a TOML file and the command line."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from image_classifier.data.folders import shown
from image_classifier.data.text_files import read_text
from image_classifier.errors import UsersError
from image_classifier.nets.weights_packages import PREFIX as PACKAGE
from image_classifier.settings import ClassifierSettings, PositiveFloat, PositiveInt, TrainMode
from image_classifier.training.hyperparameters import Hyperparameters


def _rate(value: Any) -> Any:
    """Accepts a number greater than 0, or "auto"; otherwise the error is one sentence."""
    try:
        if value == "auto" or 0 < float(value) < float("inf"):
            return value
    except (TypeError, ValueError):
        pass
    raise PydanticCustomError("rate", "give a finite number greater than 0, or auto")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: Any) -> Any:
        """Otherwise true would count as 1."""
        if isinstance(value, bool):
            raise PydanticCustomError("truth", "give a value other than true or false")
        return value


class Data(_Section):
    """The training data."""

    path: Path  # a folder of class folders, or Label Studio's JSON export
    images: Path | None = None  # where the export's images are


class Network(_Section):
    """The network that training starts from."""

    name: str  # as in NETWORK
    weights: str
    image_size: PositiveInt | None = None  # the network's own by default


class Training(_Section):
    """How to train."""

    mode: TrainMode
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: Annotated[PositiveFloat | Literal["auto"], BeforeValidator(_rate)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    lr_step_size: PositiveInt
    lr_gamma: Annotated[float, Field(gt=0, le=1)]
    freeze_epochs: Annotated[int, Field(ge=0)] = Hyperparameters.freeze_epochs
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Hyperparameters.seed

    def hyperparameters(self) -> Hyperparameters:
        """The hyperparameters, with the default learning rate as long as "auto" hasn't found one."""
        left_out = {"mode", "learning_rate"} if self.learning_rate == "auto" else {"mode"}
        return Hyperparameters(**self.model_dump(exclude=left_out))


class Testing(_Section):
    """The test images to evaluate the trained model on, in addition to the held-out ones."""

    path: Path | None = None  # a folder of class folders
    report: Path | None = None  # an HTML file


class Prediction(_Section):
    """How to change predictions before they are printed."""

    postprocess: str | None = None  # the dotted path of a function


class Recipe(_Section):
    """Everything that defines an experiment."""

    data: Data
    network: Network
    training: Training
    testing: Testing = Testing()
    prediction: Prediction = Prediction()

    def record(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


_SECTIONS: dict[str, type[_Section]] = {
    "data": Data,
    "network": Network,
    "training": Training,
    "testing": Testing,
    "prediction": Prediction,
}

Ingredients = dict[str, dict[str, Any]]


def read_recipe(file: Path | None, given: Ingredients, settings: ClassifierSettings) -> Recipe:
    """Merges the settings: `given` overrides the file, and the file overrides the environment; raises UsersError.

    Paths in the file are relative to the file. None in `given` counts as not given.
    """
    ingredients: Ingredients = {
        "data": {},
        "network": {"name": settings.network, "weights": settings.weights, "image_size": settings.image_size},
        "training": {
            "mode": settings.train_mode,
            **settings.model_dump(include=set(Training.model_fields) & set(ClassifierSettings.model_fields)),
        },
        "testing": {},
        "prediction": {},
    }
    for source in (_read(file) if file else {}, given):
        for section, values in source.items():
            known = {name: value for name, value in values.items() if value is not None}
            ingredients.setdefault(section, {}).update(known)
    try:
        return Recipe.model_validate(ingredients)
    except ValidationError as error:
        where = f"{shown(file)}: " if file else ""
        raise UsersError(where + "; ".join(map(_explain, error.errors()))) from None


def read_hook_name(file: Path, settings: ClassifierSettings) -> str | None:
    """The post-processing hook of a recipe, which needs no images; raises UsersError."""
    return read_recipe(file, {"data": {"path": Path()}}, settings).prediction.postprocess


def _read(file: Path) -> Ingredients:
    try:
        read = tomllib.loads(read_text(file))
    except OSError as error:
        raise UsersError(f"can't read {shown(file)} ({error.strerror}): pass a recipe file") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsersError(f"{shown(file)} isn't valid TOML: {error}") from None
    for name, section in read.items():
        if not isinstance(section, dict):
            sections = ", ".join(f"[{known}]" for known in Recipe.model_fields)
            raise UsersError(f"{shown(file)} has {name} outside a section: move it into one of {sections}")
    return {name: {key: _from(file, name, key, value) for key, value in part.items()} for name, part in read.items()}


_PATHS = {("data", "path"), ("data", "images"), ("network", "weights"), ("testing", "path"), ("testing", "report")}


def _from(file: Path, section: str, key: str, value: Any) -> Any:
    if (section, key) not in _PATHS or not isinstance(value, str):
        return value
    if key == "weights" and (value in ("imagenet", "none") or value.startswith(PACKAGE)):
        return value
    return str(file.parent / value)


def _explain(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        section = _SECTIONS[fault["loc"][0]] if len(fault["loc"]) > 1 else Recipe
        return f"{name} is unknown: use one of {', '.join(section.model_fields)}"
    if fault["type"] == "missing":
        return (
            "no images given: type `image-classifier train DIR` with a folder that has a subfolder of images for each "
            "class, or set path in [data] of a recipe"
        )
    return f"{name} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
