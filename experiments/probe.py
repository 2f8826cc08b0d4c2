"""Train a network once with a recipe given by arguments, and print what it reached on held-back training images.

    python experiments/probe.py --network dilated_net --epochs 36 --weight-decay 1e-4 --out experiments/records/a.json
    python experiments/probe.py --network residual_net --affine 0.5 --hold-out 0 --seed 1 --out residual_net_1.json

The test images take no part: 5,000 training images, as many of each class, are held back and tested on, unless
--hold-out 0 asks for the final run, which trains on all and tests on the test images. A run that was cut goes on when
it is started again.
"""

import argparse
import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A
import answers
import networks
import torch
import torch.nn.functional as F
from quick_depthwise import QuickDepthwise, QuickMirrorDepthwise
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torchvision.ops import SqueezeExcitation
from torchvision.transforms import v2

import eva_utils as eva
from eva_utils.checkpoint import save_json, save_weights
from eva_utils.loaders import DeviceLoader
from eva_utils.models.blocks import Residual
from eva_utils.models.mirror_net import MirrorDepthwise
from eva_utils.runtime import device_name

FACTORIES = eva.NETWORKS | networks.NETWORKS


def main() -> None:
    """Train as the arguments say and write the record."""
    args = _arguments()
    torch.backends.cudnn.allow_tf32 = False  # what is tested in float32 is, on a GPU too
    train_set, test_set = eva.load_images()
    if args.hold_out:
        train_set, test_set = eva.hold_out(train_set, args.hold_out)
    train_loader, batch_transform, loss_fn = lessons(args, train_set)
    test_loader = eva.make_loader(test_set, eva.eval_policy(), batch_size=500, fast=True)
    eva.seed_everything(args.seed)
    model = build(vars(args), len(train_set.classes))
    if args.identity:
        eva.start_at_identity(model)
    if args.start:
        model.load_state_dict(torch.load(args.start, map_location="cpu", weights_only=True))
    if args.compile:
        print("torch compiles the network in the first epoch, which takes minutes longer")
        torch._dynamo.config.wrap_top_frame = True  # else of a plain sequence its blocks alone
        model.compile(dynamic=False, mode=args.compile)  # a last, smaller batch of an epoch gets a program of its own
    optimizer = make_optimizer(model, args)
    history = eva.fit(  # returns early where the user interrupts
        model,
        train_loader,
        test_loader,
        epochs=args.epochs,
        optimizer=optimizer,
        scheduler=eva.one_cycle(optimizer, args.epochs * len(train_loader), warmup=args.warmup, final=args.final),
        loss_fn=loss_fn,
        batch_transform=batch_transform,
        ema_decay=args.average,
        checkpoint=args.out.with_suffix(".pt"),
    )
    if len(history) < args.epochs:
        return
    model = copy.deepcopy(model)  # which is not compiled, for a few passes
    if args.mean_with_start:
        train_loader.sampler.set_epoch(0)  # as where a run that has ended is started again
        mean_with(args.start, model, train_loader)
    names = {"out": args.out.name, "answers": args.answers.name, "start": args.start and args.start.name}
    record = {
        "arguments": vars(args) | names | {"teacher": args.teacher and [path.name for path in args.teacher]},
        "parameters": sum(p.numel() for p in model.parameters()),
        "tested on": f"{len(test_set):,} held-back images" if args.hold_out else str(test_set),
        "device": device_name(eva.best_device()),
        "history": vars(history),
        "test_acc": eva.evaluate(model, test_loader).acc,
    }
    save_weights(args.out.with_suffix(".weights"), model)
    save_json(args.out, record)
    print(f"{args.out.stem}: {record['test_acc']:.2%} of {record['tested on']}")


def lessons(args: argparse.Namespace, train_set: eva.ImageSet) -> tuple[DeviceLoader, Any, Callable[..., Tensor]]:
    """Return the training batches, what is done to each before the network sees it (None: nothing), and the loss."""
    batches = {"batch_size": args.batch_size, "seed": args.seed}
    classes = len(train_set.classes)
    if args.teacher:
        teachers = [load(path, classes) for path in args.teacher]
        teacher = teachers[0] if len(teachers) == 1 else Mean(teachers)
        teacher = eva.Mirrored(teacher) if args.mirrored_teacher else teacher
    if args.copies:
        asked = {"teacher": teacher, "copies": args.copies, "first": args.first_copy, "folder": args.answers}
        taught = answers.Taught(train_set, policy(args), mirror=args.mirror, **batches, **asked)
        answered = answers.Answered(taught, temperature=args.temperature, corrected=args.correct)
        return taught, answered, answered.loss
    loader = eva.make_loader(train_set, policy(args), shuffle=True, fast=True, **batches)
    if args.teacher:
        distillation = eva.Distillation(teacher, temperature=args.temperature)
        return loader, distillation, distillation.loss
    mixed = v2.MixUp(alpha=args.mixup, num_classes=classes) if args.mixup else None
    return loader, mixed, functools.partial(F.cross_entropy, label_smoothing=args.label_smoothing)


class Mean(nn.ModuleList):
    """Several teachers as one, whose logits are the means of theirs."""

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to logits (N, num_classes)."""
        return torch.stack([teacher(images) for teacher in self]).mean(dim=0)


def mean_with(start: Path, model: nn.Module, loader: DeviceLoader) -> None:
    """Give the model the mean of its weights and those it began with, and measure its batch statistics in one pass.

    After Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
    """
    before, now = torch.load(start, map_location=eva.best_device(), weights_only=True), model.state_dict()
    weights = [name for name, value in now.items() if value.is_floating_point()]
    means = {name: (before[name] + now[name]) / 2 for name in weights}
    counted = {name: value.clone() for name, value in now.items() if name not in means}
    model.load_state_dict(means, strict=False)
    update_bn(loader, model)
    model.load_state_dict(counted, strict=False)  # the steps of its training, not those of this pass


def load(path: Path, num_classes: int) -> nn.Module:
    """Return the network that a record is of, with its weights."""
    model = build(_arguments_of(path), num_classes)
    model.load_state_dict(torch.load(path.with_suffix(".weights"), map_location="cpu", weights_only=True))
    return model.to(memory_format=torch.channels_last)


def policy(args: argparse.Namespace) -> A.Compose:
    """Return flip, crop, affine map, colours, grey and hole, as far as the arguments ask for them."""
    reach = {"shift": 0.1 * args.strength, "scale": 0.1 * args.strength, "rotate": 10 * args.strength}
    course = eva.course_policy(affine=args.affine, **reach)
    flip, pad, crop, hole, *normalize = eva.crop_policy(padding=args.padding, dropout=args.dropout).transforms
    return A.Compose(
        [
            flip,
            *([pad, crop] if args.padding else []),
            *([course.transforms[1]] if args.affine else []),
            *([A.ColorJitter(args.jitter, args.jitter, args.jitter, hue=0, p=0.8)] if args.jitter else []),
            hole,
            *([A.ToGray(p=args.grey)] if args.grey else []),
            *normalize,
        ]
    )


def build(arguments: dict[str, Any], num_classes: int) -> nn.Module:
    """Return the network that the arguments of a probe name, changed as they say."""
    model = FACTORIES[arguments["network"]](num_classes=num_classes)
    without, strided, side = (arguments.get(name) for name in ("without", "strided_dilation", "depthwise"))
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if without == "gates" and isinstance(layer, SqueezeExcitation):
                setattr(module, name, nn.Identity())
            if without == "shortcuts" and isinstance(layer, Residual):
                setattr(module, name, nn.Sequential(layer.body, nn.ReLU()))
            if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
                continue
            if without == "dilation" and layer.dilation != (1, 1):
                layer.dilation, layer.padding = (1, 1), tuple(length // 2 for length in layer.kernel_size)
            square = layer.kernel_size == (3, 3)
            if strided and square and layer.stride == (2, 2):
                layer.dilation = layer.padding = (strided, strided)
            plain = layer.groups == layer.in_channels and not isinstance(layer, (QuickDepthwise, QuickMirrorDepthwise))
            if plain and (layer.dilation != (1, 1) or not square or side):  # depthwise, and not quick yet
                setattr(module, name, depthwise(layer, side if side and square else layer.kernel_size[0]))
    return model


def depthwise(layer: nn.Conv2d, side: int) -> nn.Conv2d:
    """Return a depthwise layer like this one, with kernels of ``side``, copied if that is their size already.

    Dilated ones, and ones larger than 3x3, are returned in the forms that are quick on a CPU.
    """
    count, dilation, bias = layer.groups, layer.dilation[0], layer.bias is not None
    quick = dilation > 1 or side > 3
    if isinstance(layer, MirrorDepthwise):
        made = (QuickMirrorDepthwise if quick else MirrorDepthwise)(2 * count, side, dilation=dilation)
    elif quick:
        made = QuickDepthwise(count, side, dilation, bias=bias)
    else:
        made = nn.Conv2d(count, count, side, 1, side // 2, groups=count, bias=bias)
    if side == layer.kernel_size[0]:
        made.load_state_dict(layer.state_dict())
    return made


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Return the optimizer that the arguments name."""
    if args.optimizer == "muon":
        groups = eva.muon_groups(
            model, lr=args.lr, sgd_lr=4 * args.lr, weight_decay=args.weight_decay, sgd_weight_decay=5e-4
        )
        if args.decay_all:
            groups[-1]["weight_decay"] = groups[-2]["weight_decay"]
        return eva.Muon(groups, momentum=args.momentum)
    groups = eva.decay_groups(model, args.weight_decay)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr)
    return torch.optim.SGD(groups, lr=args.lr, momentum=args.momentum, nesterov=True)


class _WithDefaults(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written, and the default of each option."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_WithDefaults)
    add = parser.add_argument
    networks_help = "one of the library's or of networks.py, whose docstrings describe them"
    add("--network", choices=sorted(FACTORIES), default="dilated_net", metavar="NAME", help=networks_help)
    add("--strided-dilation", type=int, help="of the layers that halve the size, in place of the network's")
    add("--without", choices=("gates", "shortcuts", "dilation"), help="what is taken out of the network")
    add("--depthwise", type=int, metavar="SIDE", help="side, odd, of what are 3x3 depthwise kernels")
    add("--epochs", type=int, default=36, help="passes over the training images")
    add("--batch-size", type=int, default=128, help="images a step")
    add("--optimizer", choices=("sgd", "muon", "adamw"), default="sgd", help="the defaults below suit sgd alone")
    add("--lr", type=float, default=0.04, help="highest learning rate")
    add("--momentum", type=float, default=0.95, help="of sgd and muon")
    add("--weight-decay", type=float, default=3e-4, help="of what has several numbers a channel")
    add("--decay-all", action="store_true", help="with Muon: norms and biases decay as the depthwise kernels do")
    add("--warmup", type=float, default=0.1, help="share of the steps")
    add("--final", type=float, default=0.0, help="learning rate of the last step, as a share of the highest")
    add("--padding", type=int, default=4, help="pixels that the crop may shift an image by; 0: no crop")
    add("--dropout", type=float, default=0.1, help="share of the images with a hole")
    add("--affine", type=float, default=0.0, help="share of the images that are shifted, scaled and rotated")
    add("--strength", type=float, default=1.0, help="of that: times a tenth of the size and 10 degrees")
    add("--jitter", type=float, default=0.0, help="of brightness, contrast and saturation, as a share of 1")
    add("--grey", type=float, default=0.0, help="share of the images without colour")
    add("--mixup", type=float, default=0.0, help="alpha of the shares that two images are mixed in")
    add("--label-smoothing", type=float, default=0.0, help="share of the probability that all classes get alike")
    add("--identity", action="store_true", help="each convolution starts as what hands its input on, plus noise")
    add("--start", type=Path, metavar="FILE", help="weights to go on from; another FILE wants another --out")
    add("--mean-with-start", action="store_true", help="end with the mean of those weights and the new ones")
    add(
        "--teacher",
        type=Path,
        nargs="+",
        help="record of a network to learn from in place of the labels, its weights beside it; of several, the mean",
    )
    add("--mirrored-teacher", action="store_true", help="the teacher looks at the mirror image as well (eva.Mirrored)")
    add("--copies", type=int, default=0, help="augmented copies that the teacher is asked about once, see answers.py")
    add("--first-copy", type=int, default=0, help="number of the first; with --start, as many as were seen already")
    add("--mirror", action="store_true", help="show the copies mirrored in every other pass through them")
    add("--correct", action="store_true", help="exchange the first choice and the label in wrong answers")
    add("--answers", type=Path, default=Path("answers"), help="folder of the answers, which all students share")
    add("--temperature", type=float, default=4.0, help="of the teacher's probabilities")
    add("--average", type=float, default=0.99, help="of the weights: what it keeps of itself each step")
    add(
        "--compile",
        nargs="?",
        const="default",
        choices=("default", "reduce-overhead"),
        help="have torch compile the network, which trains it faster; reduce-overhead: into CUDA graphs, on a GPU",
    )
    add("--seed", type=int, default=0, help="of the weights, the order and the augmentations")
    add("--hold-out", type=int, default=5000, help="training images to test on; 0: the test images")
    add("--out", type=Path, required=True, help="the record, JSON; checkpoint and weights go beside it")
    args = parser.parse_args()
    _check(parser, args)
    return args


def _check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with a message where the arguments contradict one another, or would be passed over."""
    for path in args.teacher or []:
        if not (path.is_file() and path.with_suffix(".weights").is_file()):
            parser.error(f"--teacher {path}: expected the record of a probe, with its weights beside it")
        if path.with_suffix(".weights").resolve() == args.out.with_suffix(".weights").resolve():
            parser.error(f"--teacher {path}: the weights of this run would take its place; choose another --out")
        if args.hold_out > _arguments_of(path)["hold_out"]:
            parser.error("--teacher: it was trained on images that are held back here; add --hold-out 0")
    if args.start:
        _check_start(parser, args)
    if args.mean_with_start and not args.start:
        parser.error("--mean-with-start: with which weights? add --start")
    for name, value in (("--copies", args.copies), ("--first-copy", args.first_copy)):
        if value < 0:
            parser.error(f"{name} {value}: expected a number from 0 on")
    if args.copies and not args.teacher:
        parser.error("--copies: of whose answers? add --teacher")
    if args.mirrored_teacher and not args.teacher:
        parser.error("--mirrored-teacher: which one? add --teacher")
    if (args.mirror or args.correct or args.first_copy) and not args.copies:
        parser.error("--first-copy, --mirror and --correct change the copies that a teacher has answered: add --copies")
    if args.decay_all and args.optimizer != "muon":
        parser.error("--decay-all is for Muon alone")
    if args.depthwise is not None and (args.depthwise < 1 or args.depthwise % 2 == 0):
        parser.error(f"--depthwise {args.depthwise}: expected an odd side, such as 5")
    for name, asked in (("without", args.without), ("depthwise", args.depthwise)):
        plain = {"network": args.network}
        if asked is not None and str(build(plain | {name: asked}, 10)) == str(build(plain, 10)):
            parser.error(f"--{name} {asked} changes nothing in {args.network}: leave it out")
    if args.teacher and (args.mixup or args.label_smoothing):
        parser.error("--teacher takes the place of the labels: leave out --mixup and --label-smoothing")


def _check_start(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with a message where there are no such weights, or their run had another network or images held back."""
    if not args.start.is_file():
        parser.error(f"--start {args.start}: no such file; expected the weights that a probe has left")
    if args.start.resolve() == args.out.with_suffix(".weights").resolve():
        parser.error(f"--start {args.start}: the weights of this run would take its place; choose another --out")
    if args.identity:
        parser.error("--start brings weights of its own: leave out --identity")
    record = args.start.with_suffix(".json")
    before = _arguments_of(record) if record.exists() else {"hold_out": 0}  # weights of the library: from all images
    if args.hold_out > before["hold_out"]:
        parser.error("--start: it was trained on images that are held back here; add --hold-out 0")
    for name in ("network", "without", "strided_dilation", "depthwise"):
        asked = getattr(args, name)
        if before.get(name, asked) != asked:
            option = f"--{name.replace('_', '-')}"
            parser.error(f"--start: its network had {option} {before[name]}, this one has {asked}; make them the same")


def _arguments_of(record: Path) -> dict[str, Any]:
    """Return the arguments that a probe was run with."""
    return json.loads(record.read_text(encoding="utf-8"))["arguments"]


if __name__ == "__main__":
    main()
