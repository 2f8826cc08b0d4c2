"""How far an epoch is: what a checkpoint within it holds, and what its line is printed from."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from eva_utils.distributed import sum_over_processes
from eva_utils.history import Evaluation

NEVER = 2**62
REMEDY = "lower the learning rate or warm up longer, and start again"


@dataclass
class EpochSoFar:
    """How far an epoch is: the batches done, and the sums over their images, which stay on the device."""

    loss: Tensor
    correct: Tensor
    bad_step: Tensor  # the first step whose loss was not finite, and its lr
    bad_lr: Tensor
    steps: int = 0
    images: int = 0
    lr: float = math.nan
    seconds: float = 0.0
    start: dict[str, Any] = field(default_factory=dict)  # the random state before the first batch

    @classmethod
    def new(cls, device: torch.device) -> "EpochSoFar":
        """Return the state before the first batch."""
        zero = torch.zeros((), device=device)
        whole = torch.zeros((), device=device, dtype=torch.int64)
        return cls(loss=zero, correct=whole, bad_step=torch.full_like(whole, NEVER), bad_lr=torch.zeros_like(zero))

    def add(self, loss: Tensor, correct: Tensor, lr: float, images: int) -> None:
        """Count one more batch, of this mean loss and this number of right predictions."""
        self.loss = self.loss + loss * images
        self.correct = self.correct + correct
        first = ~loss.isfinite() & (self.bad_step == NEVER)
        self.steps, self.images, self.lr = self.steps + 1, self.images + images, lr
        self.bad_step = torch.where(first, self.steps, self.bad_step)
        self.bad_lr = torch.where(first, lr, self.bad_lr)

    def gather(self) -> None:
        """Count the images of all processes that train together."""
        images = torch.tensor(self.images, device=self.loss.device)
        sum_over_processes(self.loss, self.correct, images)
        self.images = int(images)

    def result(self) -> Evaluation:
        """Return the mean loss and the accuracy so far."""
        return Evaluation(self.loss.item() / self.images, self.correct.item() / self.images)

    def check_finite(self, epoch: int) -> None:
        """Raise FloatingPointError if a loss was not finite. This waits for the device."""
        if self.bad_step.item() < NEVER:
            raise FloatingPointError(
                f"the training loss is not finite since step {self.bad_step.item():,} of epoch {epoch}, at learning "
                f"rate {self.bad_lr.item():.2e}: {REMEDY}"
            )

    def check_weights(self, model: nn.Module, epoch: int) -> None:
        """Raise FloatingPointError if a weight or a statistic is not finite, as after a step that went too far.

        The step's own loss is still finite then. This waits for the device.
        """
        kept = filter(torch.is_tensor, model.state_dict().values())  # masks that are no part of it may hold infinities
        finite = [value.isfinite().all() for value in kept if value.is_floating_point()]
        if finite and not torch.stack(finite).all():
            raise FloatingPointError(
                f"the weights are not finite after step {self.steps:,} of epoch {epoch}, at learning rate "
                f"{self.lr:.2e}: {REMEDY}"
            )
