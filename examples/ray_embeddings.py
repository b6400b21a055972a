"""Embeds the images of a project's tasks on a Ray cluster, for all hosts that share its MODEL_DIR.

pip install "ray[data]"
python examples/ray_embeddings.py 7 tasks.json

The file is Label Studio's JSON export of the project, with all tasks. All machines need this checkout, the workers'
settings and MODEL_DIR. If the run breaks off, the hosts compute what is missing.
"""

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import ray

from my_backend import files
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import media_pool
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.registry import Projects
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import read_settings

TASKS_OF_A_FILE = 1_000
CORES = 2  # for each process, which loads the network once


class Embed:
    """What each of Ray's processes does; its columns are numpy arrays."""

    def __init__(self, name: str) -> None:
        settings = read_settings()
        projects = Projects.of(settings)
        project = projects.find(name)
        model = ModelFactory(settings, projects, Connections(settings), media_pool())
        self._model, self._embeddings = model(project, project.versions.live()), Embeddings(project.folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tasks = [json.loads(task) for task in batch["task"]]
        written = self._embeddings.new_file(self._model.embedding_space())
        written.parent.mkdir(parents=True, exist_ok=True)
        try:
            embedded = self._model.embed([tasks], written, lambda: None)
            files.move(written, written.with_name(f"ray-{uuid4().hex}"))  # from now on, all hosts read it
        finally:
            written.unlink(missing_ok=True)  # if the disk is full, for example
        return {"tasks": np.array([len(tasks)]), "embedded": np.array([embedded])}


def main(name: str, export: Path) -> None:
    tasks = [{"id": task["id"], "data": task["data"]} for task in json.loads(export.read_text("utf-8"))]
    processes = max(1, int(ray.cluster_resources()["CPU"]) // CORES)
    done = (
        ray.data.from_items([{"task": json.dumps(task)} for task in tasks])
        .map_batches(
            Embed,
            fn_constructor_args=[name],
            batch_size=TASKS_OF_A_FILE,
            num_cpus=CORES,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=processes),
        )
        .to_pandas()
    )
    print(f"{done['embedded'].sum():,} of {done['tasks'].sum():,} images have an embedding that all hosts share.")


if __name__ == "__main__":
    ray.init()
    main(sys.argv[1], Path(sys.argv[2]))
