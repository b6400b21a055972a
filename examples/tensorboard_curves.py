"""Writes the curves of every published version for TensorBoard, in a folder for each project and version.

pip install tensorboard
PUBLISHED_HOOK=examples.tensorboard_curves:write TENSORBOARD_DIR=runs make start
tensorboard --logdir runs
"""

import os
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from my_backend.published_hook.published import Published


def write(published: Published) -> None:
    folder = Path(os.environ.get("TENSORBOARD_DIR", "runs"), published.project, published.version)
    if folder.exists():  # an older version that is live again
        return
    with SummaryWriter(str(folder)) as writer:
        for step, epoch in enumerate(published.epochs):
            for name, value in (("loss", epoch.loss), ("accuracy", epoch.accuracy)):
                if value is not None:
                    writer.add_scalar(f"{epoch.phase}/{name}", value, step)
        for point in published.learning_curve:
            writer.add_scalar("accuracy by labels", point.accuracy, point.labels)
        for name, value in published.metrics.items():
            writer.add_scalar(f"version/{name}", value, sum(published.labels.values()))
        writer.add_text("model card", published.card)
