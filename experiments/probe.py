"""Train a network once with a recipe given by arguments, and print what it reached on held-back training images.

    python experiments/probe.py --network dilated_net --epochs 36 --weight-decay 1e-4 --out experiments/records/a.json

The test images take no part: the last 5,000 training images by a fixed draw are held back and tested on.
"""

import argparse
import functools
import json
from pathlib import Path

import torch
import torch.nn.functional as F

import eva_utils as eva


def main() -> None:
    """Train as the arguments say and write the record."""
    args = _parser().parse_args()
    train_set, held_back = eva.hold_out(eva.load_images()[0], args.hold_out)
    policy = eva.crop_policy(padding=args.padding, dropout=args.dropout)
    train_loader = eva.make_loader(
        train_set, policy, batch_size=args.batch_size, shuffle=True, seed=args.seed, fast=True
    )
    test_loader = eva.make_loader(held_back, eva.eval_policy(), batch_size=500, fast=True)
    eva.seed_everything(args.seed)
    model = eva.build_network(args.network)
    if args.strided_dilation:
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.stride == (2, 2):
                layer.dilation = layer.padding = (args.strided_dilation,) * 2
    optimizer = torch.optim.SGD(
        eva.decay_groups(model, args.weight_decay), lr=args.lr, momentum=args.momentum, nesterov=True
    )
    history = eva.fit(
        model,
        train_loader,
        test_loader,
        epochs=args.epochs,
        optimizer=optimizer,
        scheduler=eva.one_cycle(optimizer, args.epochs * len(train_loader), warmup=args.warmup),
        loss_fn=functools.partial(F.cross_entropy, label_smoothing=args.label_smoothing),
        average=args.average,
        checkpoint=args.out.with_suffix(".pt"),
    )
    record = {
        "arguments": {name: value for name, value in vars(args).items() if name != "out"},
        "history": vars(history),
        "test_acc": history.test_acc[-1],
    }
    args.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(f"{args.out.stem}: {history.test_acc[-1]:.2%} of {len(held_back):,} held-back images")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(eva.NETWORKS), default="dilated_net")
    parser.add_argument(
        "--strided-dilation", type=int, help="of the layers that halve the size; default: the network's"
    )
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.04)
    parser.add_argument("--momentum", type=float, default=0.95)
    parser.add_argument("--weight-decay", type=float, default=3e-4)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--padding", type=int, default=4, help="pixels that the crop may shift an image by")
    parser.add_argument("--dropout", type=float, default=0.1, help="share of the images with a hole")
    parser.add_argument("--label-smoothing", type=float, default=0.0)
    parser.add_argument("--average", type=float, default=0.0, help="of the weights: what it keeps of itself each step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold-out", type=int, default=5000)
    parser.add_argument("--out", type=Path, required=True, help="the record, JSON; the checkpoint goes beside it")
    return parser


if __name__ == "__main__":
    main()
