"""The state of training all layers, in a file from which training resumes."""

import copy
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from image_classifier.nets.state_dicts import read_tensors, save_tensors

log = logging.getLogger(__name__)


class TrainingState:
    """Everything that training needs to resume: weights, momentum, learning rate, epoch, and the best epoch so far."""

    def __init__(self, module: nn.Module, optimizer: SGD, scheduler: LRScheduler, classes: Sequence[str]) -> None:
        self._module, self._optimizer, self._scheduler = module, optimizer, scheduler
        self._classes = list(classes)
        self._epochs_done = 0
        self.best = copy.deepcopy(module.state_dict())
        self.best_accuracy, self.best_epoch = -1.0, -1

    def finish_epoch(self, epoch: int, accuracy: float) -> None:
        self._epochs_done = epoch + 1
        if accuracy > self.best_accuracy:
            self.best = copy.deepcopy(self._module.state_dict())
            self.best_accuracy, self.best_epoch = accuracy, epoch

    def save(self, path: Path) -> None:
        optimizer = self._optimizer.state_dict()
        tensors = {f"module.{name}": tensor for name, tensor in self._module.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {
            f"momentum.{number}": state["momentum_buffer"]
            for number, state in optimizer["state"].items()
            if state.get("momentum_buffer") is not None
        }
        facts = {
            "classes": self._classes,
            "epochs_done": self._epochs_done,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "groups": optimizer["param_groups"],
            "scheduler": self._scheduler.state_dict(),
        }
        part = path.with_suffix(".part")
        save_tensors(tensors, part, {"state": json.dumps(facts)})
        os.replace(part, path)

    def resume(self, path: Path) -> int:
        """Loads the checkpoint if there is one; returns how many epochs are already done."""
        if not path.is_file():
            return 0
        try:
            return self._resume(path)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            log.warning("starting over: %s is damaged (%s)", path.name, error)
            return 0

    def _resume(self, path: Path) -> int:
        tensors, metadata = read_tensors(path)
        facts = json.loads(metadata["state"])
        if facts["classes"] != self._classes:
            log.info("starting over: the classes have changed since %s", path.name)
            return 0
        done, best = (
            facts["epochs_done"],
            (facts["best_accuracy"], facts["best_epoch"]),
        )  # read everything before changing anything
        groups, scheduler = facts["groups"], facts["scheduler"]
        self._module.load_state_dict(_of("module.", tensors))
        self.best = _of("best.", tensors)
        momentum = {int(name): {"momentum_buffer": tensor} for name, tensor in _of("momentum.", tensors).items()}
        self._optimizer.load_state_dict({"state": momentum, "param_groups": groups})
        self._scheduler.load_state_dict(scheduler)
        (self.best_accuracy, self.best_epoch), self._epochs_done = best, done
        log.info("resuming after epoch %d from %s", self._epochs_done, path.name)
        return self._epochs_done


def _of(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
