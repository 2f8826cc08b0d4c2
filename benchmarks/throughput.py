"""Training images per second of the networks: the usual loop against fit, with the ordinary and the fast loader.

    python benchmarks/throughput.py --out benchmarks/records/throughput_cpu.json
    python benchmarks/throughput.py --compiled --out benchmarks/records/compiled_cpu.json

All train the same network with the same policy, batch size and SGD in one process, in turns. Two floors are
stated beside: the speed if a step were its multiply-adds alone, at the rate of a large matrix product, and if it were
the bytes alone that its layers, one by one, read and write, at the rate of a large copy. Fused layers and caches
move fewer. With --compiled the first to be measured is fit with the fast loader, and beside it the same with the
network compiled; compiling counts to the round that does not.
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import common
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import eva_utils as eva
from eva_utils.recipes import RECIPES, sgd
from eva_utils.runtime import training_precision

USUAL = "usual loop, float32"


def main() -> None:
    """Measure the networks and print a table of each."""
    parser = common.parser(__doc__, in_rounds=True)
    parser.add_argument("--count", type=int, default=6400, help="images a round; default: %(default)s")
    networks = {"nargs": "+", "choices": eva.NETWORKS, "default": list(eva.NETWORKS), "metavar": "NAME"}
    parser.add_argument("--network", **networks, help="which to measure; default: all")
    parser.add_argument("--compiled", action="store_true", help="measure what compiling the network gains, alone")
    args = parser.parse_args()
    compared = compiled_contenders if args.compiled else contenders
    device, (whole_set, _) = eva.best_device(), eva.load_images(args.images)
    train_set = whole_set.subset(range(min(args.count, len(whole_set))))
    needed = dict.fromkeys(precision for network in args.network for precision in precisions(network, device))
    rates = {precision: matrix_rate(device, precision) for precision in needed}
    bandwidth = copy_rate(device)
    measured = {}
    for network in args.network:
        values = common.in_turns(compared(network, train_set, device), args.rounds)
        floors = {precision: floor(network, precision, rate, bandwidth) for precision, rate in rates.items()}
        measured[network] = {"images_per_second": values, "floor_images_per_second": floors}
        first = statistics.median(next(iter(values.values())))
        rows = []
        for name, speeds in values.items():
            median, best = statistics.median(speeds), floors[name.rsplit(", ", 1)[1]]
            shares = [f"{median / best[kind]:.0%}" for kind in ("multiply-adds", "bytes")]
            rows.append((name, common.spread(speeds), f"{median / first:.2f}", *shares))
        header = (
            "",
            "images/s: median (lowest to highest)",
            "to the first",
            "of the multiply-adds'",
            "of the bytes'",
        )
        common.print_table(f"{network} on {device.type}, {train_set.name}", header, rows)
    rates = {"matrix_flops": rates, "copy_bytes": bandwidth}
    images = {"images": train_set.name, "images_a_round": len(train_set)}
    common.save_record(args.out, images | {"rates_a_second": rates, "networks": measured})


def precisions(network: str, device: torch.device) -> list[str]:
    """Return the precisions to measure: float32, and the one that ``fit`` chooses where that is another."""
    return list(dict.fromkeys(["float32", training_precision(eva.build_network(network), device)]))


def contenders(network: str, train_set: eva.ImageSet, device: torch.device) -> dict[str, Callable[[], float]]:
    """Return what trains for an epoch and gives its images per second, by name."""
    recipe = RECIPES[network]
    batch_size, policy = recipe["batch_size"], recipe["policy"]()
    usual_model = eva.build_network(network).to(device)
    usual_loader = common.usual_loader(train_set, policy, batch_size=batch_size)
    usual_optimizer = sgd(usual_model, lr=0.04)

    def usual() -> float:
        start = time.perf_counter()
        common.usual_epoch(usual_model, usual_loader, usual_optimizer, None, device)
        return len(train_set) / (time.perf_counter() - start)

    made = {USUAL: usual}
    test_loader = eva.make_loader(train_set.subset([0]), eva.eval_policy(), batch_size=1, fast=True, device=device)
    for kind, arguments in (("ordinary loader", {}), ("fast loader", {"fast": True, "device": device})):
        loader = eva.make_loader(train_set, policy, batch_size=batch_size, shuffle=True, **arguments)
        for precision in precisions(network, device):
            made[f"fit, {kind}, {precision}"] = _fit(network, loader, test_loader, device, precision)
    last = _fit(network, loader, test_loader, device, precision)
    made[f"the last, channels first, {precision}"] = lambda: _channels_first(last)
    return made


def compiled_contenders(network: str, train_set: eva.ImageSet, device: torch.device) -> dict[str, Callable[[], float]]:
    """Return what trains for an epoch with the fast loader in the best precision, as it is and compiled, by name."""
    recipe, precision = RECIPES[network], precisions(network, device)[-1]
    batches = {"batch_size": recipe["batch_size"], "fast": True, "device": device}
    loader = eva.make_loader(train_set, recipe["policy"](), shuffle=True, **batches)
    test_loader = eva.make_loader(train_set.subset([0]), eva.eval_policy(), batch_size=1, fast=True, device=device)
    return {
        f"fit, fast loader, {how}, {precision}": _fit(
            network, loader, test_loader, device, precision, compiled=compiled
        )
        for how, compiled in (("as it is", False), ("compiled", True))
    }


def _channels_first(train: Callable[[], float]) -> float:
    """Call with torch's other memory layout in place of the one that ``fit`` asks for."""
    with mock.patch.object(torch, "channels_last", torch.contiguous_format):
        return train()


def _fit(
    network: str,
    loader: object,
    test_loader: object,
    device: torch.device,
    precision: str,
    *,
    compiled: bool = False,
) -> Callable[[], float]:
    model = eva.build_network(network)
    if compiled:
        model.compile(dynamic=False)  # one program for each size of batch
    optimizer = sgd(model, lr=0.04)

    def train() -> float:
        settings = {"optimizer": optimizer, "device": device, "precision": precision, "verbose": False}
        return eva.fit(model, loader, test_loader, epochs=1, **settings).images_per_second[0]

    return train


def matrix_rate(device: torch.device, precision: str, size: int = 2048) -> float:
    """Return the floating-point operations a second of a large matrix product: the most of 20."""
    a, b = (torch.randn(size, size, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def copy_rate(device: torch.device, size: int = 2**26) -> float:
    """Return the bytes a second that a copy of ``size`` bytes reads and writes: the most of 20."""
    source, seconds = torch.ones(size, dtype=torch.uint8, device=device), []
    target = torch.empty_like(source)
    for _ in range(20):
        start = time.perf_counter()
        target.copy_(source)[0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * size / min(seconds)


def floor(network: str, precision: str, flops: float, bandwidth: float) -> dict[str, float]:
    """Return the images a second of a step that were multiply-adds alone, and of one that were bytes alone.

    A backward pass has twice the multiply-adds of the forward pass.
    """
    model = eva.build_network(network)
    size = getattr(torch, precision).itemsize
    return {
        "multiply-adds": flops / (3 * forward_flops(model)),
        "bytes": bandwidth / (size * moved_numbers(model)),
    }


def moved_numbers(model: nn.Module) -> int:
    """Return how many numbers the layers read and write for an image in a step, each layer by itself.

    Forward a layer reads its input and writes its output; backward it reads the input and the output's gradient and
    writes the input's. Weights are left out: a batch shares them.
    """
    moved = 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal moved
        moved += 3 * inputs[0].numel() + 2 * output.numel()

    hooks = [layer.register_forward_hook(count) for layer in model.modules() if not [*layer.children()]]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return moved


def forward_flops(model: nn.Module) -> int:
    """Return the floating-point operations of one image forward: two a multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops()


if __name__ == "__main__":
    main()
