"""torchsummary's table without torchsummary's traps."""

import contextlib
import copy
import io

import torch
import torchsummary
from torch import nn


def summary(model: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32)) -> str:
    """Print and return torchsummary's table of the model's layers, output shapes and parameters.

    ``input_size`` is one image's (channels, height, width). The table is made from a copy of the model on the CPU, in
    eval mode, so that the model, its mode, its BatchNorm statistics, its hooks and the random state stay as they were,
    on whatever device it is, also if the forward pass fails. As in torchsummary, layers stand in the order in
    which they ran and sequences have no row.
    """
    clone = copy.deepcopy(model).to("cpu").float().eval()
    table = io.StringIO()
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        contextlib.redirect_stdout(table),
    ):
        torchsummary.summary(clone, input_size, device="cpu")
    print(table.getvalue(), end="")
    return table.getvalue()
