"""Problems with the model class, its weights, and versions that can't be loaded."""

from my_backend.diagnostics.problem import Problem
from my_backend.serving.live_models import Failure, ServingStatus


def model_problems(status: ServingStatus) -> list[Problem]:
    """What keeps the server from loading models, and the warnings of those that are loaded."""
    said = ([status.import_error] if status.import_error else []) + list(status.warnings)
    misspelled = [misspelled_setting(given, meant) for given, meant in status.misspelled.items()]
    return [*misspelled, *map(model_warning, said), *map(_not_loaded, status.failures)]


def misspelled_setting(given: str, meant: str) -> Problem:
    """An environment variable, or a line in `.env`, whose name is nearly that of a setting."""
    return Problem(
        "settings",
        f"{given} is ignored: there is no such setting. Did you mean {meant}?",
        f"If so, correct the name in the environment or in .env, and restart the backend; otherwise remove {given}.",
    )


def model_warning(warning: str) -> Problem:
    """The model class can't be used as it should; the warning is its own."""
    return Problem("model", warning)


def _not_loaded(failure: Failure) -> Problem:
    if not failure.wanted.name:
        return Problem("model", f"Can't read the project's files ({failure.error}).", project=failure.project)
    message = f"Can't load version {failure.wanted.name} ({failure.error})."
    return Problem("model", message, "Start training, or activate another version.", failure.project)
