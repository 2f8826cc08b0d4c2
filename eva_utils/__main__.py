"""The library from a shell: ``python -m eva_utils train --help``."""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from eva_utils.images import hold_out, load_images
from eva_utils.loaders import make_loader
from eva_utils.models import NETWORKS, build_network
from eva_utils.optimizers import decay_groups, one_cycle
from eva_utils.predictions import predict
from eva_utils.records import FIGURES, save_run
from eva_utils.runtime import best_device, describe_device, seed_everything
from eva_utils.training import fit
from eva_utils.transforms import crop_policy, eval_policy


def sgd_recipe(model: nn.Module, lr: float, momentum: float) -> torch.optim.Optimizer:
    """Return the optimizer of notebooks 04 and 05."""
    return torch.optim.SGD(decay_groups(model, 3e-4), lr=lr, momentum=momentum, nesterov=True)


# The recipes of the notebooks: epochs, batch size, highest lr, share of warm-up, optimizer and augmentation.
RECIPES = {
    "dilated_net": {
        "epochs": 36,
        "batch_size": 128,
        "lr": 0.04,
        "warmup": 0.1,
        "optimizer": partial(sgd_recipe, momentum=0.95),
        "policy": lambda: crop_policy(padding=4, dropout=0.1),
    },
    "dilated_separable_net": {
        "epochs": 180,
        "batch_size": 256,
        "lr": 0.2,
        "warmup": 0.1,
        "optimizer": partial(sgd_recipe, momentum=0.9),
        "policy": lambda: crop_policy(padding=4, dropout=0.5),
    },
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the process's) name; return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        train(args)
    except (OSError, ValueError, FloatingPointError) as error:
        print(f"python -m eva_utils: {error}", file=sys.stderr)
        return 1
    return 0


def train(args: argparse.Namespace) -> None:
    """Train a network with its notebook's recipe and write record, weights and figures."""
    recipe = RECIPES[args.network]
    epochs = args.epochs or recipe["epochs"]
    batch_size = args.batch_size or recipe["batch_size"]
    lr = args.lr or recipe["lr"]
    out = args.out or Path("runs") / args.network
    train_set, test_set = load_images(args.images)
    if args.hold_out:
        train_set, test_set = hold_out(train_set, args.hold_out)
    print(train_set, test_set, describe_device(best_device()), sep="\n")

    seed_everything(args.seed)
    model = build_network(args.network, num_classes=len(train_set.classes))
    train_loader = make_loader(train_set, recipe["policy"](), batch_size=batch_size, shuffle=True, seed=args.seed)
    test_loader = make_loader(test_set, eval_policy(), batch_size=500)
    optimizer = recipe["optimizer"](model, lr)
    scheduler = one_cycle(optimizer, epochs * len(train_loader), warmup=recipe["warmup"])
    history = fit(
        model,
        train_loader,
        test_loader,
        epochs=epochs,
        optimizer=optimizer,
        scheduler=scheduler,
        checkpoint=out / "checkpoint.pt",
    )
    record = save_run(
        out,
        network=args.network,
        model=model,
        train_set=train_set,
        test_set=test_set,
        history=history,
        predictions=predict(model, test_loader),
        settings={"epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": args.seed},
    )
    print(f"test accuracy on {test_set.name}: {record['test_acc']:.2%}")
    print(f"in {out}: record.json, weights.pt, {', '.join(FIGURES)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eva_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "train",
        help="train a network; write its record, weights and figures",
        description="Train a network with its notebook's recipe. A run that was cut goes on when started again.",
    )
    command.add_argument("--network", choices=NETWORKS, default="dilated_net", help="default: %(default)s")
    command.add_argument(
        "--images", metavar="SOURCE", help='"cifar10", "shapes" or a folder; default: $EVA_DATA, else cifar10'
    )
    command.add_argument("--epochs", type=_positive(int), help="default: the notebook's")
    command.add_argument("--batch-size", type=_positive(int), help="default: the notebook's")
    command.add_argument("--lr", type=_positive(float), help="highest learning rate; default: the notebook's")
    command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    command.add_argument(
        "--hold-out",
        type=_positive(int),
        metavar="N",
        help="train without N of the training images and test on these instead: to choose hyperparameters on",
    )
    command.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/NETWORK")
    return parser


def _positive(kind: type) -> object:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
        return value

    parse.__name__ = kind.__name__  # argparse names it where the text is no number
    return parse


if __name__ == "__main__":
    raise SystemExit(main())
