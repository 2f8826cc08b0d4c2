"""Test networks alone and with the mirror images (eva.Mirrored), on the images that their records were tested on.

    python experiments/mirrored.py runs/a.json experiments/records/teacher_14.json

Weights are expected beside each record, as a probe leaves them. What comes out goes to the folder --out, a file each.
"""

import argparse
import json
from pathlib import Path

import probe
import torch

import eva_utils as eva

FOLDER = Path(__file__).parent / "records" / "mirrored"


def main() -> None:
    """Test each network twice and write down both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: %(default)s")
    args = parser.parse_args()
    paths, folder = args.records, args.out
    missing = [str(path) for path in paths if not (path.is_file() and path.with_suffix(".weights").is_file())]
    if missing:
        parser.error(f"expected records of a probe, with their weights beside them: {', '.join(missing)}")
    train_set, test_set = eva.load_images()
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        arguments = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        images = eva.hold_out(train_set, arguments["hold_out"])[1] if arguments["hold_out"] else test_set
        record = {"network": arguments["network"], "tested on": f"{images!r}, checksum {images.checksum}"}
        loader = eva.make_loader(images, eva.eval_policy(), batch_size=500, fast=True)
        network = probe.load(path, len(images.classes)).to(eva.best_device())
        for name, model in (("alone", network), ("mirrored", eva.Mirrored(network))):
            loss, acc = eva.evaluate(model.to(memory_format=torch.channels_last), loader)
            record[name] = {"loss": loss, "acc": acc}
        (folder / path.name).write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(f"{path.stem:<50} {record['alone']['acc']:.2%}  mirrored {record['mirrored']['acc']:.2%}")


if __name__ == "__main__":
    main()
