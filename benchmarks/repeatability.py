"""Whether two trainings with one seed end with the same bits, with and without deterministic=True, and what it costs.

    python benchmarks/repeatability.py --out benchmarks/records/repeatability_cuda.json

Exits with status 1 if two deterministic runs differ.
"""

import statistics

import common
import torch

import eva_utils as eva
from eva_utils.recipes import prepare
from eva_utils.runtime import prepare_determinism, training_precision


def main() -> None:
    """Train each network twice each way and compare all weights, losses and predictions."""
    parser = common.parser(__doc__)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--count", type=int, help="training images, and test images; default: all")
    args = parser.parse_args()
    prepare_determinism(eva.best_device())  # at once: the fast loader starts CUDA, before fit could tell cuBLAS
    sets = eva.load_images(args.images)
    if args.count is not None:
        sets = tuple(images.subset(range(min(args.count, len(images)))) for images in sets)
    ways = {"deterministic": True, "as it comes": False}
    device, rows, measured = eva.best_device(), [], {}
    for network in eva.NETWORKS:
        precision = training_precision(eva.build_network(network), device)
        for name, deterministic in ways.items():
            runs = [train(network, sets, args.epochs, deterministic) for _ in range(2)]
            same = all(torch.equal(a, b) for a, b in zip(runs[0][0], runs[1][0], strict=True))
            speeds = [speed for _, speed in runs]
            rows.append(
                (network, name, "equal" if same else "different", precision, f"{statistics.median(speeds):,.0f}")
            )
            measured[f"{network}, {name}"] = {"equal": same, "images_per_second": speeds}
    header = ("network", "run", "bits of two runs", "precision", "images/s")
    common.print_table(f"{args.epochs} epochs on {device.type}", header, rows)
    common.save_record(args.out, {"images": len(sets[0]), "epochs": args.epochs, "runs": measured})
    if any(not run["equal"] for name, run in measured.items() if "as it comes" not in name):
        raise SystemExit("two deterministic runs differ")


def train(network: str, sets: tuple, epochs: int, deterministic: bool) -> tuple[list[torch.Tensor], float]:
    """Return all that a training ends with, as tensors, and its images per second."""
    prepared = prepare(network, *sets, epochs=epochs, fast=True)
    history = eva.fit(**prepared, deterministic=deterministic, verbose=False)
    losses = torch.tensor([*history.train_loss, *history.test_loss], dtype=torch.float64)
    logits = eva.predict(prepared["model"], prepared["test_loader"]).logits
    weights = [value.cpu() for value in prepared["model"].state_dict().values()]
    return [losses, logits, *weights], history.images_per_second[-1]


if __name__ == "__main__":
    main()
