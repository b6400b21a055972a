"""A model class whose embeddings take as long as a setting says, and hardly any processor time."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from my_backend.serving.model_api import Json, ModelAPI

MODEL_CLASS = "testing.sleeping_model:SleepingModel"
SECONDS = "SLEEPING_MODEL_SECONDS"  # names the time that a task takes
SPACE = "asleep"


class SleepingModel(ModelAPI):
    """Writes the ids of tasks in place of their embeddings, a line each."""

    def predict(self, tasks: Sequence[Json], **kwargs: Any) -> list[Json | list[Any]]:
        return [[] for _ in tasks]

    def embedding_space(self) -> str:
        return SPACE

    def embed(self, pages: Iterable[Sequence[Json]], file: Path, check: Callable[[], None]) -> int:
        readable = 0
        with file.open("w") as written:
            for tasks in pages:
                check()
                time.sleep(float(os.environ[SECONDS]) * len(tasks))
                written.writelines(f"{task['id']}\n" for task in tasks)
                readable += len(tasks)
        return readable
