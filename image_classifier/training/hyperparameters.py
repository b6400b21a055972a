"""The hyperparameters of SGD with StepLR, for the head and for all layers."""

from dataclasses import asdict, dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

HEAD_RATE = 10  # the head starts from scratch, so its learning rate is ten times the backbone's


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters of training: SGD's, StepLR's, the number of epochs, the batch size and the random seed."""

    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 0.001
    momentum: float = 0.9
    lr_step_size: int = 7
    lr_gamma: float = 0.1
    seed: int = 0
    freeze_epochs: int = 0  # the first epochs of training all layers that only train the head

    def scheduler(self, optimizer: Optimizer) -> StepLR:
        """Multiplies the learning rate by `lr_gamma` every `lr_step_size` epochs."""
        return StepLR(optimizer, self.lr_step_size, self.lr_gamma)

    def record(self) -> dict[str, Any]:
        return asdict(self)
