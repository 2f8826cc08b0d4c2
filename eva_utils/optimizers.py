"""Parameter groups, and an optimizer that torch has for matrices only."""

import numbers
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eva_utils.checks import instance, real_number, whole_number


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the model's parameters as two groups for a torch optimizer.

    Weights of convolutions and linear layers decay; what has one number a channel, as biases, normalisations and
    scales have, does not (He et al. 2019, "Bag of tricks for image classification"). Raises ValueError for a weight
    decay below 0 and for what is no network.
    """
    weights, others = _weights_and_others(model)
    return [
        {"params": weights, "weight_decay": real_number("weight_decay", weight_decay, least=0)},
        {"params": others, "weight_decay": 0.0},
    ]


def _weights_and_others(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that are trained: those of several numbers a channel, and those of one."""
    instance("model", model, nn.Module, "a network, such as build_network gives")
    weights, others = [], []
    for p in model.parameters():
        if p.requires_grad:
            (weights if p.ndim > 1 and p.numel() > p.shape[0] else others).append(p)
    return weights, others


def muon_groups(
    model: nn.Module, *, lr: float, sgd_lr: float, weight_decay: float, sgd_weight_decay: float
) -> list[dict[str, Any]]:
    """Return the model's parameters as three groups for :class:`Muon`.

    The weights of layers that mix channels, the first one excepted, step by ``lr`` along orthogonalised momentum:
    convolutions, grouped ones as one matrix too, and linear layers, the last one included. The rest (the first layer,
    depthwise convolutions, biases, normalisations) takes steps of SGD by ``sgd_lr``; of these, what has one number a
    channel does not decay. Raises ValueError for a rate or a decay below 0 and for what is no network.
    """
    given = {"lr": lr, "sgd_lr": sgd_lr, "weight_decay": weight_decay, "sgd_weight_decay": sgd_weight_decay}
    for name, value in given.items():
        real_number(name, value, least=0)
    weights, others = _weights_and_others(model)
    matrices = [p for p in weights[1:] if p.shape[1] > 1]
    sgd = {"lr": sgd_lr, "orthogonal": False}
    return [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay, "orthogonal": True},
        {
            "params": [*weights[:1], *(p for p in weights[1:] if p.shape[1] == 1)],
            "weight_decay": sgd_weight_decay,
            **sgd,
        },
        {"params": others, "weight_decay": 0.0, **sgd},
    ]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised: all directions of a weight matrix step by the same length.

    Plain momentum moves a layer mostly along the few directions in which its gradients are largest; here each
    update is replaced by the nearest matrix whose singular values are all about 1 (Jordan et al. 2024, "Muon").
    ``torch.optim.Muon`` takes two-dimensional parameters alone; this one takes convolutions, as matrices
    (out_channels, in_channels * height * width).

    Groups with ``orthogonal`` False take steps of SGD with Nesterov momentum. Weight decay is decoupled in the former
    (each step shrinks the weights by ``lr * weight_decay``) and part of the gradient in the latter. :func:`muon_groups`
    makes the groups; plain parameters are one group to orthogonalise.

    Raises ValueError for a rate or a decay below 0, a momentum outside 0 to less than 1, and vectors to orthogonalise.
    """

    def __init__(self, params: Iterable[Any], *, lr: float = 0.05, momentum: float = 0.9) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": True}
        super().__init__(params, defaults)
        for group in self.param_groups:
            real_number("lr", group["lr"], least=0)
            if real_number("momentum", group["momentum"], least=0, most=1) == 1:
                raise ValueError("momentum=1: expected a share below 1, such as 0.9; that one never moves a weight")
            real_number("weight_decay", group["weight_decay"], least=0)
            vectors = [tuple(p.shape) for p in group["params"] if p.ndim < 2]
            if group["orthogonal"] and vectors:
                raise ValueError(f"a parameter {vectors[0]} is no matrix: hand in muon_groups(model, ...)")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Move each parameter that has a gradient by one step; return the loss of ``closure``, called before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if p not in self.state:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum"] for p in params]
            update = _orthogonal_step if group["orthogonal"] else _sgd_step
            if params:
                update(params, [p.grad for p in params], buffers, group)
        return loss


def _orthogonal_step(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], group: dict[str, Any]) -> None:
    torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
    torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    alike = defaultdict(list)  # matrices of one shape are orthogonalised at once: a GPU waits for calls
    for p, direction in zip(params, torch._foreach_lerp(grads, buffers, group["momentum"]), strict=True):  # Nesterov
        matrix = direction.flatten(1)
        alike[matrix.shape].append((p, matrix))
    for (rows, columns), pairs in alike.items():
        orthogonal = orthogonalize(torch.stack([matrix for _, matrix in pairs]))
        for (p, _), direction in zip(pairs, orthogonal, strict=True):
            p.add_(direction.reshape(p.shape), alpha=-group["lr"] * max(1, rows / columns) ** 0.5)


def _sgd_step(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], group: dict[str, Any]) -> None:
    gradients = torch._foreach_add(grads, params, alpha=group["weight_decay"])
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, gradients)
    torch._foreach_add_(gradients, buffers, alpha=group["momentum"])
    torch._foreach_add_(params, gradients, alpha=-group["lr"])


def orthogonalize(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Return about the nearest matrix of the same shape (M, N) whose singular values are all alike.

    Newton-Schulz iteration with the coefficients of Jordan et al. 2024: after 5 steps the singular values
    lie within about 0.7 to 1.2, save those that were next to 0. The zero matrix stays zero. Several matrices (B, M, N)
    are taken one by one.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    x = wide.reshape(-1, *wide.shape[-2:])
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT  # (B, M, M), M the smaller side
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(wide.shape)
    return x if wide is matrix else x.mT


def one_cycle(
    optimizer: torch.optim.Optimizer, total_steps: int, *, warmup: float = 0.2, final: float = 0.0
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return torch's one-cycle schedule from each group's own lr as the highest, in straight lines.

    The learning rate rises from 1/25 of the highest over the first ``warmup`` of the steps and falls to ``final`` of
    the highest, or about 0, at the last (Smith & Topin 2018); the momentum stays. Step it after every batch.
    ``total_steps`` is the number of batches in all epochs. Raises ValueError for no whole number of them, a warm-up
    that is no share of them, a ``final`` outside 0 to 1, or an optimizer that has a schedule already, whose rates are
    no longer its own.
    """
    instance("optimizer", optimizer, torch.optim.Optimizer, "one of torch.optim or Muon")
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise ValueError("the optimizer has had a schedule, which changed its learning rates: make the optimizer anew")
    total_steps = max(whole_number("total_steps", total_steps, least=1), 3)  # torch cannot divide fewer
    number = isinstance(warmup, numbers.Real) and not isinstance(warmup, bool)
    if not number or not 0 <= warmup < 1:
        raise ValueError(f"warmup={warmup!r}: expected a share of the steps, from 0 to less than 1")
    final = real_number("final", final, least=0, most=1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=max(float(warmup), 2 / total_steps),  # torch divides by pct_start * total_steps - 1
        anneal_strategy="linear",
        final_div_factor=1 / (25 * final) if final else 1e4,  # of the first learning rate
        cycle_momentum=False,
    )
