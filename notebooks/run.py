"""Execute the notebooks from top to bottom, or write the repository's address into them.

    python notebooks/run.py demo     the first network on the built-in shapes, into runs/demo
    python notebooks/run.py full     all notebooks on CIFAR-10, in place, with weights, records and figures
    python notebooks/run.py stamp    the address in pyproject.toml into each setup cell and badge

A full training that was cut goes on from runs/full/<network>/checkpoint.pt, and a finished one is not repeated: delete
that folder to train anew.
"""

import argparse
import json
import os
import re
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from eva_utils.models import NETWORKS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DEMO = ROOT / "notebooks" / "04_dilated_net.ipynb"
DEMO_NOTE = """> **A demo run on the built-in shapes.** Tables, curves and figures are this run's.
> The numbers in the text are those of the full run on CIFAR-10."""
PIP = re.compile(r"(%pip install .* git\+)https://\S+")
TITLE_RESULT = re.compile(r"\*\*[\d.]+%\*\* test accuracy at the last of \d+ epochs \([^)]*\)|not trained yet")
BADGE = re.compile(r"(https://colab\.research\.google\.com/github)/[\w.-]+/[\w.-]+(/blob/)")


def main() -> int:
    """Run the command that the arguments name."""
    commands = {"demo": run_demo, "full": run_full, "stamp": stamp}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("notebook", nargs="*", help="with full: run these alone, by the start of their names")
    args = parser.parse_args()
    chosen = [path for path in NOTEBOOKS if not args.notebook or path.name.startswith(tuple(args.notebook))]
    if not chosen:
        parser.error(f"no notebook's name starts so: choose from {', '.join(path.stem[:2] for path in NOTEBOOKS)}")
    commands[args.command](chosen)
    return 0


def run_demo(_: list[Path]) -> None:
    """Train the first network on the built-in shapes; leave notebook, HTML and figures in runs/demo."""
    out = ROOT / "runs" / "demo"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.environ.update(EVA_DEMO="1", EVA_SMOKE="0")
    print("training on the built-in shapes: about two minutes on two cores", flush=True)
    notebook = _execute(DEMO)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(DEMO_NOTE))
    nbformat.write(notebook, out / DEMO.name)
    page, _ = HTMLExporter().from_notebook_node(
        notebook, resources={"metadata": {"name": DEMO.stem}}
    )  # the page's title
    (out / DEMO.name).with_suffix(".html").write_text(page, encoding="utf-8")
    (record,) = out.glob("*/record.json")
    print(f"test accuracy on the built-in shapes: {json.loads(record.read_text(encoding='utf-8'))['test_acc']:.2%}")
    for path in sorted([*out.glob("*.*"), *out.glob("*/*.png")]):
        print(f"  {os.path.relpath(path)}")


def run_full(notebooks: list[Path]) -> None:
    """Execute the notebooks in place; keep records, weights and figures of the networks they train."""
    os.environ.update(EVA_DEMO="0", EVA_SMOKE="0")
    for path in notebooks:
        print(f"executing {path.name}", flush=True)
        started = time.time()
        notebook = _execute(path)
        for record in sorted((ROOT / "runs" / "full").glob("*/record.json")):
            if record.stat().st_mtime >= started:
                _publish(record.parent, notebook)
        nbformat.write(notebook, path)


def _execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs, and nothing in it that differs from run to run for no reason."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(ROOT)}},
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each cell ran
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("data") != {"text/plain": ""}]  # ended progress lines
            CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)
    trains = any(cell.cell_type == "code" and "eva.fit(" in cell.source for cell in notebook.cells)
    notebook.metadata = {
        **({"accelerator": "GPU"} if trains else {}),  # which Colab then gives it
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def _publish(run: Path, notebook: nbformat.NotebookNode) -> None:
    """Keep the record of a run on CIFAR-10; of a network also weights, figures, and its result where it is quoted."""
    record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    if not record["images"].startswith("CIFAR-10"):
        print(f"  not shipped: a run on {record['images']}")
        return
    shutil.copyfile(run / "record.json", ROOT / "results" / f"{run.name}.json")
    if run.name not in NETWORKS:
        return
    shutil.copyfile(run / "weights.pt", ROOT / "eva_utils" / "weights" / f"{run.name}.pt")
    for figure in run.glob("*.png"):
        prefix = "" if run.name == "dilated_net" else f"{run.name}_"
        shutil.copyfile(figure, ROOT / "images" / f"{prefix}{figure.name}")
    title = notebook.cells[0]
    title.source = TITLE_RESULT.sub(title_result(record), title.source)
    readme = ROOT / "README.md"
    row = re.compile(rf"^\| `{run.name}` \| .*$", re.MULTILINE)
    readme.write_text(row.sub(table_row(record), readme.read_text(encoding="utf-8")), encoding="utf-8")


def title_result(record: dict[str, Any]) -> str:
    """Return how a notebook's title cell quotes its record."""
    return (
        f"**{record['test_acc']:.2%}** test accuracy at the last of {record['settings']['epochs']} epochs "
        f"({record['images']})"
    )


def table_row(record: dict[str, Any]) -> str:
    """Return how the README's table of results quotes a record."""
    cells = (
        f"`{record['network']}`",
        f"{record['parameters']:,}",
        str(record["settings"]["epochs"]),
        f"{record['test_acc']:.2%}",
        f"{record['history']['train_acc'][-1]:.2%}",
        record["images"],
        f"{record['device']}, {record['seconds'] / 60:.0f} minutes",
    )
    return f"| {' | '.join(cells)} |"


def stamp(notebooks: list[Path]) -> None:
    """Write the repository's address from pyproject.toml into the setup cells and badges."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project["urls"]["repository"]
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            cell.source = stamped(cell.source, address)
        nbformat.write(notebook, path)
    print(f"{len(notebooks)} notebooks now say {address}")


def stamped(source: str, address: str) -> str:
    """Return a cell's text with the repository's ``address`` in its badge or its pip command."""
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(f"pyproject.toml: repository = {address!r}: expected https://github.com/OWNER/NAME")
    source = PIP.sub(rf"\g<1>{address}", source)
    return BADGE.sub(rf"\g<1>{address.removeprefix('https://github.com')}\g<2>", source)


if __name__ == "__main__":
    raise SystemExit(main())
