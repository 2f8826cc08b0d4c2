"""Test networks alone and with the mirror images (eva.Mirrored), on the images that their records were tested on.

    python experiments/mirrored.py runs/a.json experiments/records/teacher_14.json --out runs/mirrored

Weights are expected beside each record, as a probe leaves them. What comes out goes to the folder --out, a file each,
named as the record.
"""

import argparse
import json
from pathlib import Path

import probe
import torch

import eva_utils as eva
from eva_utils.checkpoint import save_json


def main() -> None:
    """Test each network twice and write down both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder, such as runs/mirrored")
    args = parser.parse_args()
    missing = [str(path) for path in args.records if not (path.is_file() and path.with_suffix(".weights").is_file())]
    if missing:
        parser.error(f"expected records of a probe, with their weights beside them: {', '.join(missing)}")
    train_set, test_set = eva.load_images()
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.records:
        before = json.loads(path.read_text(encoding="utf-8"))
        count = before["arguments"]["hold_out"]
        images = eva.hold_out(train_set, count)[1] if count else test_set
        if not before["history"]["run"]["test images"].endswith(f"checksum {images.checksum}"):
            parser.error(f"{path} was tested on other images than {images!r}: name them by EVA_DATA")
        network = probe.load(path, len(images.classes)).to(eva.best_device(), memory_format=torch.channels_last)
        record = {"network": before["arguments"]["network"], "tested on": f"{images!r}, checksum {images.checksum}"}
        loader = eva.make_loader(images, eva.eval_policy(), batch_size=100, fast=True)
        for name, model in (("alone", network), ("mirrored", eva.Mirrored(network))):
            loss, acc = eva.evaluate(model, loader)
            record[name] = {"loss": loss, "acc": acc}
        save_json(args.out / path.name, record)
        print(f"{path.stem:<50} {record['alone']['acc']:.2%}  mirrored {record['mirrored']['acc']:.2%}")


if __name__ == "__main__":
    main()
