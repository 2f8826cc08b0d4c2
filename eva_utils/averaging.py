"""A moving average of a network's weights over the steps of its training."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(nn.Module):
    """An exponential moving average of a model's weights and of the statistics of its normalisations.

    Each update keeps ``decay`` of what was there, but after n updates no more than n / (n + 9): the weights before
    the first steps would weigh for epochs otherwise. So the average is over about the last ninth of the steps so far,
    until these are 1 / (1 - decay). ``module`` is the averaged network.

    Torch's own ``AveragedModel`` keeps its counter as a tensor, and has the host wait for a GPU at each update.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    def forward(self, *inputs: Any) -> Any:
        """Return what the averaged network does."""
        return self.module(*inputs)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's weights as they are now into the average."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averages, weights = zip(*((a, w) for a, w in pairs if a.is_floating_point()), strict=True)
        kept = min(self.decay, self.updates / (self.updates + 9))
        get_ema_multi_avg_fn(kept)(list(averages), list(weights), None)
        for a, w in pairs:
            if not a.is_floating_point():  # counters
                a.copy_(w)
        self.updates += 1

    def get_extra_state(self) -> int:
        """Return the number of updates, which goes into the state dict."""
        return self.updates

    def set_extra_state(self, state: int) -> None:
        """Take the number of updates from a state dict."""
        self.updates = state


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
