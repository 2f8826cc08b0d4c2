"""The library from a shell: ``python -m eva_utils train --help``."""

import argparse
import json
import statistics
import sys
from pathlib import Path

from eva_utils.distributed import is_first, join, leave, torchrun_place, wait_for_all
from eva_utils.images import hold_out, load_images
from eva_utils.loaders import make_loader
from eva_utils.models import NETWORKS
from eva_utils.predictions import predict
from eva_utils.recipes import RECIPES, prepare
from eva_utils.records import FIGURES, save_run
from eva_utils.runtime import best_device, describe_device
from eva_utils.training import fit
from eva_utils.transforms import eval_policy


def main(arguments: list[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the process's) name; return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        number, count = torchrun_place()
        if len(args.seeds) > 1:
            train_seeds(args, number, count)
        elif count > 1:
            train_together(args, number, count)
        else:
            train(args, args.seeds[0], _out(args))
    except (OSError, ValueError, FloatingPointError) as error:
        message = str(error).replace("say restart=True", "say --restart")
        message = message.replace("name another file", "name another folder with --out")
        print(f"python -m eva_utils: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def train_together(args: argparse.Namespace, number: int, count: int) -> None:
    """Train one network with all the processes that torchrun started, each on its share of every batch."""
    join()
    try:
        train(args, args.seeds[0], _out(args), shard=(number, count))
    finally:
        leave()


def train_seeds(args: argparse.Namespace, number: int, count: int) -> None:
    """Train a network for each seed, the seeds spread over the processes; print mean and deviation in the end."""
    for seed in args.seeds[number::count]:
        train(args, seed, _out(args) / f"seed_{seed}")
    if count > 1:
        wait_for_all()
    if number > 0:
        return
    paths = [_out(args) / f"seed_{seed}" / "record.json" for seed in args.seeds]
    accuracies = [json.loads(path.read_text(encoding="utf-8"))["test_acc"] for path in paths]
    for path, accuracy in zip(paths, accuracies, strict=True):
        print(f"{accuracy:.2%}  {path}")
    print(f"{statistics.mean(accuracies):.2%}  mean, deviation {statistics.stdev(accuracies):.2%}, {len(paths)} seeds")


def train(args: argparse.Namespace, seed: int, out: Path, shard: tuple[int, int] = (0, 1)) -> None:
    """Train a network by its recipe and write record, weights and figures."""
    train_set, test_set = load_images(args.images)
    if args.hold_out:
        train_set, test_set = hold_out(train_set, args.hold_out)
    say = print if is_first() else lambda *_, **__: None
    say(train_set, test_set, describe_device(best_device()), sep="\n")
    recipe = RECIPES[args.network]
    settings = {name: getattr(args, name) or recipe[name] for name in ("epochs", "batch_size", "lr")} | {"seed": seed}
    prepared = prepare(args.network, train_set, test_set, fast=True, shard=shard, **settings)
    history = fit(**prepared, checkpoint=out / "checkpoint.pt", restart=args.restart)
    if len(history) < settings["epochs"]:
        raise KeyboardInterrupt  # which ended the training; it has said how to go on
    if not is_first():
        return
    model = prepared["model"]
    record = save_run(
        out,
        network=args.network,
        model=model,
        train_set=train_set,
        test_set=test_set,
        history=history,
        predictions=predict(model, make_loader(test_set, eval_policy(), batch_size=500, fast=True)),
        settings=settings,
    )
    print(f"test accuracy on {test_set.name}: {record['test_acc']:.2%}")
    print(f"in {out}: record.json, weights.pt, {', '.join(FIGURES)}")


def _out(args: argparse.Namespace) -> Path:
    return args.out or Path("runs") / args.network


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eva_utils", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "train",
        help="train a network; write its record, weights and figures",
        description="Train a network by its recipe. A run that was cut goes on when started again.",
    )
    command.add_argument("--network", choices=NETWORKS, default="dilated_net", help="default: %(default)s")
    command.add_argument(
        "--images", metavar="SOURCE", help='"cifar10", "shapes" or a folder; default: $EVA_DATA, else cifar10'
    )
    command.add_argument("--epochs", type=_positive(int), help="default: the recipe's")
    command.add_argument("--batch-size", type=_positive(int), help="default: the recipe's")
    command.add_argument("--lr", type=_positive(float), help="highest learning rate; default: the recipe's")
    command.add_argument(
        "--seeds",
        "--seed",
        type=_seeds,
        default=[0],
        metavar="SEEDS",
        help="one, or several as 0-4 or 0,3,7: a run each in FOLDER/seed_N, spread over the processes; default: 0",
    )
    command.add_argument(
        "--hold-out",
        type=_positive(int),
        metavar="N",
        help="train without N of the training images and test on these instead: to choose hyperparameters on",
    )
    command.add_argument("--restart", action="store_true", help="start afresh where the folder holds another run")
    command.add_argument("--out", type=Path, metavar="FOLDER", help="default: runs/NETWORK")
    return parser


def _seeds(text: str) -> list[int]:
    """Return the seeds of "3", "0-4" or "0,3,7-9"."""
    seeds = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or part == first)):
            raise argparse.ArgumentTypeError(f"{text!r}: expected seeds such as 3, 0-4 or 0,3,7")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers or {*numbers} & {*seeds}:
            raise argparse.ArgumentTypeError(f"{text!r}: expected different seeds, the lower ones first")
        seeds += numbers
    return seeds


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
