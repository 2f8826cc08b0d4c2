"""Test accuracy after a short training, over seeds: the ordinary loader in float32 against each thing that is faster.

    python benchmarks/seeds.py --seeds 4 --out benchmarks/records/seeds_cpu.json

A seed starts all of them from the same weights. What is faster keeps the accuracy if the means differ by no more than
seeds do.
"""

import math
import statistics
import sys

import common

import eva_utils as eva
from eva_utils.recipes import prepare
from eva_utils.runtime import training_precision

USUAL = "ordinary loader, float32"


def main() -> None:
    """Train all of them with each seed and print mean, deviation and difference."""
    parser = common.parser(__doc__)
    parser.add_argument("--network", choices=sorted(eva.NETWORKS), default="dilated_net")
    parser.add_argument("--count", type=int, default=5000, help="training images; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds: a deviation needs 2 or more")
    train_set, test_set = eva.load_images(args.images)
    if args.count < len(train_set):
        train_set = eva.hold_out(train_set, args.count)[1]  # as many of each class
    sets = (train_set, test_set)
    best = training_precision(eva.build_network(args.network), eva.best_device())
    contenders = {USUAL: (False, "float32"), "fast loader, float32": (True, "float32")}
    if best != "float32":
        contenders |= {f"{kind} loader, {best}": (kind == "fast", best) for kind in ("ordinary", "fast")}
    accuracies: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(args.seeds):
        for name, (fast, precision) in contenders.items():
            prepared = prepare(args.network, *sets, epochs=args.epochs, seed=seed, fast=fast)
            prepared["ema_decay"] = 0.0  # the weights of the last step are compared
            history = eva.fit(**prepared, precision=precision, verbose=False)
            accuracies[name].append(history.test_acc[-1])
        print(f"seed {seed + 1} of {args.seeds}", file=sys.stderr)
    rows = []
    for name, values in accuracies.items():
        difference = statistics.mean(values) - statistics.mean(accuracies[USUAL])
        error = math.sqrt(sum(statistics.variance(v) for v in (values, accuracies[USUAL])) / args.seeds)
        compared = "" if name == USUAL else f"{100 * difference:+.2f} ± {100 * error:.2f}"
        rows.append((name, f"{statistics.mean(values):.2%}", f"{100 * statistics.stdev(values):.2f}", compared))
    title = f"{args.network}, {len(sets[0]):,} images, {args.epochs} epochs, {args.seeds} seeds, {test_set.name}"
    common.print_table(title, ("", "mean", "deviation, points", "difference ± its standard error, points"), rows)
    settings = {name: getattr(args, name) for name in ("network", "count", "epochs", "seeds")}
    common.save_record(args.out, {"images": test_set.name, "settings": settings, "test_acc": accuracies})


if __name__ == "__main__":
    main()
