"""The post-processing hook of a recipe: a user's function that may change each prediction."""

import importlib
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from image_classifier.cli.predictions import Prediction
from image_classifier.errors import UsersError

Hook = Callable[[dict[str, Any]], Any]


def load_hook(name: str) -> Hook:
    """Imports a function by its dotted path, `my_module.my_function`, also from the working directory.

    Raises UsersError.
    """
    module_name, _, function = name.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        hook = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # it is the user's own code
        raise UsersError(f"can't load postprocess = {name} ({error}): set it to module.function") from error
    if not callable(hook):
        raise UsersError(f"postprocess = {name} isn't a function: set it to module.function")
    return hook  # type: ignore[no-any-return]  # it is callable


def postprocessed(predictions: Iterable[Prediction], hook: Hook, name: str) -> Iterator[Prediction]:
    """Passes each prediction through the hook.

    The hook gets a dict with `image`, `prediction`, `confidence` and `scores`. It returns a dict with `prediction` and
    `confidence`, and `scores` if they change, all finite; for anything else, this raises UsersError.
    """
    for prediction in predictions:
        if prediction.error:
            yield prediction
            continue
        try:
            record = hook(prediction.record())
        except Exception as error:  # it is the user's own code
            raise UsersError(f"{name} failed for {prediction.path}: {type(error).__name__}: {error}") from error
        try:
            scores = record.get("scores", dict(prediction.scores))
            pairs = tuple((str(label), _finite(score)) for label, score in scores.items())
            changed = replace(
                prediction, label=str(record["prediction"]), confidence=_finite(record["confidence"]), scores=pairs
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise UsersError(
                f"{name} returned {record!r}: it must return a dict with prediction and confidence, like the one it "
                "got, with finite numbers"
            ) from error
        yield changed


def _finite(value: Any) -> float:
    """The value as a number; raises ValueError or OverflowError if it isn't finite, which JSON doesn't allow."""
    if not math.isfinite(number := float(value)):
        raise ValueError(value)
    return number
