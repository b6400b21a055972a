"""The post-processing hook of a recipe: a function of the user's own that has the last word on each prediction."""

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from image_classifier.cli.predictions import Prediction
from image_classifier.errors import UsersError

Hook = Callable[[dict[str, Any]], Any]


def load_hook(name: str) -> Hook:
    """The function of a dotted path, as in `my_module.my_function`; the working directory is looked in too.

    Raises UsersError.
    """
    module_name, _, function = name.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        hook = getattr(importlib.import_module(module_name), function)
    except Exception as error:  # it is the user's own code
        raise UsersError(f"postprocess = {name} cannot be loaded ({error}): write it as module.function") from error
    if not callable(hook):
        raise UsersError(f"postprocess = {name} is no function")
    return hook  # type: ignore[no-any-return]  # whatever it is, it can be called


def postprocessed(predictions: Iterable[Prediction], hook: Hook, name: str) -> Iterator[Prediction]:
    """Each prediction as the hook returns it: a dict with `prediction` and `confidence`, and `scores` if they change.

    It gets `image`, `prediction`, `confidence` and `scores`. Raises UsersError for what is no such dict.
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
            pairs = tuple((str(label), float(score)) for label, score in scores.items())
            changed = replace(
                prediction, label=str(record["prediction"]), confidence=float(record["confidence"]), scores=pairs
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsersError(
                f"{name} returned {record!r}: return the dict that it was given, with prediction and confidence"
            ) from error
        yield changed
