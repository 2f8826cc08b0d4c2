"""Several processes that train one network, each on its share of every batch, or a seed of its own each.

``torchrun`` starts the processes and tells each its number in the environment; torch's DistributedDataParallel sums
their gradients.
"""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=7)  # a process may wait for the seeds of another


def torchrun_place() -> tuple[int, int]:
    """Return this process's number and how many torchrun started: (0, 1) without it.

    Where there are GPUs, the process takes the one of its number on this machine. Raises ValueError if that is missing.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"there is no GPU for process {local} of this machine: --nproc-per-node {gpus} at most")
        torch.cuda.set_device(local)
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def join() -> None:
    """Connect the processes that torchrun started; from then on, :func:`~eva_utils.fit` trains with all of them."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def leave() -> None:
    """End what :func:`join` began."""
    dist.destroy_process_group()


def wait_for_all() -> None:
    """Wait until all processes that torchrun started have come here, as each trains a seed of its own before."""
    dist.init_process_group("gloo", timeout=PATIENCE)  # also where there are GPUs: nccl's does not wait by itself
    dist.barrier()
    dist.destroy_process_group()


def processes() -> int:
    """Return how many processes train together: 1 if they were not joined."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return processes() == 1 or dist.get_rank() == 0


def first_seed(device: torch.device) -> int:
    """Return what the first process's global generator was seeded with: its weights are those that all take."""
    seed = torch.tensor(torch.initial_seed() % 2**62 if is_first() else 0, device=device)
    sum_over_processes(seed)
    return int(seed)


def sum_over_processes(*values: Tensor) -> None:
    """Replace each value, a tensor on the device, by its sum over all processes."""
    if processes() > 1:
        for value in values:
            dist.all_reduce(value)


def weight_of(count: int, device: torch.device) -> Tensor | float:
    """Return by what the mean loss of this process's ``count`` images counts, so that each image counts the same.

    DistributedDataParallel takes the mean of the processes' gradients, also where their shares of a batch differ.
    """
    if processes() == 1:
        return 1.0
    total = torch.tensor(count, device=device)
    sum_over_processes(total)
    return count * processes() / total


@contextlib.contextmanager
def joined(model: nn.Module) -> Iterator[nn.Module]:
    """Give what to train instead of ``model``: in one process the model itself.

    In several, its gradients are summed over all of them and its BatchNorm layers take the statistics of the whole
    batch, as one process would; afterwards they are as they were.
    """
    if processes() == 1:
        yield model
        return
    layers = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    for layer in layers:
        layer.__class__ = JoinedBatchNorm2d
    try:
        yield DistributedDataParallel(model, broadcast_buffers=False)
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm2d


class JoinedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics are those of all processes' images, as torch's SyncBatchNorm has on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W); B may be 0 and differ between processes."""
        if not self.training:
            return super().forward(x)
        values = x if x.dtype == torch.float64 else x.float()
        count = values.new_full((1,), x.numel() // self.num_features)
        sums = all_reduce(torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count]))
        mean, square = sums[:-1].view(2, -1) / sums[-1]
        var = (square - mean * mean).clamp(min=0)
        if self.track_running_stats:
            self._note(mean.detach(), var.detach() * sums[-1] / (sums[-1] - 1))
        out = (values - mean[:, None, None]) * torch.rsqrt(var + self.eps)[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var, share)
