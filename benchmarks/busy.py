"""Where the time of a training goes: the operations that take most, and the share of it that a GPU computes.

    python benchmarks/busy.py --cores 2 --out benchmarks/records/busy_cuda.json

``--cores`` keeps the host to so many cores, as a Colab machine has two. A profiler costs some time of its own.
"""

import os
from collections.abc import Iterable

import common
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

import eva_utils as eva
from eva_utils.recipes import prepare

TOP = 12


def main() -> None:
    """Profile an epoch of each network, after one that does not count, and print a table of each."""
    parser = common.parser(__doc__)
    parser.add_argument("--count", type=int, default=12_800, help="images of the epoch; default: %(default)s")
    parser.add_argument("--cores", type=int, help="default: all")
    args = parser.parse_args()
    if args.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    train_set, test_set = eva.load_images(args.images)
    sets = (train_set.subset(range(min(args.count, len(train_set)))), test_set.subset([0]))
    device, measured = eva.best_device(), {}
    for network in eva.NETWORKS:
        trace = traced_epoch(network, sets)
        kernels = on_gpu(trace.events())
        intervals = [(kernel.time_range.start, kernel.time_range.end) for kernel in kernels]
        share = busy_share(intervals) if kernels else None
        averages = trace.key_averages()
        if kernels:
            times = {row.key: row.self_device_time_total for row in on_gpu(averages)}
        else:
            times = {row.key: row.self_cpu_time_total for row in averages}
        longest = sorted(times, key=times.get, reverse=True)[:TOP]
        shares = {name: times[name] / sum(times.values()) for name in longest}
        title = f"{network} on {device.type}" + (f": the GPU computes {share:.0%} of the time" if share else "")
        common.print_table(title, ("operation", "share of the time"), [(n, f"{v:.1%}") for n, v in shares.items()])
        measured[network] = {"busy": share, "shares": shares}
    common.save_record(args.out, {"images": train_set.name, "cores": args.cores, "networks": measured})


def traced_epoch(network: str, sets: tuple) -> profile:
    """Train two epochs, and trace the second."""
    prepared = prepare(network, *sets, epochs=2, fast=True)
    loader = prepared["train_loader"]
    settings = {name: prepared[name] for name in ("optimizer", "scheduler")} | {"epochs": 1, "verbose": False}
    eva.fit(prepared["model"], loader, prepared["test_loader"], **settings)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities, acc_events=True) as trace:
        eva.fit(prepared["model"], loader, prepared["test_loader"], **settings)
    return trace


def on_gpu(events: Iterable) -> list:
    """Return the events, or rows of their averages, that are kernels and copies on a GPU.

    The operations that started them have the same times once more, and an annotation spans the gaps between them.
    """
    return [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]


def busy_share(intervals: list[tuple[float, float]]) -> float:
    """Return the share of the time from the first start to the last end that at least one interval covers."""
    intervals = sorted(intervals)
    begin, covered, until = intervals[0][0], 0.0, intervals[0][0]
    for start, end in intervals:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered / (until - begin)


if __name__ == "__main__":
    main()
