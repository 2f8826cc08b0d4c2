"""torchsummary's table without torchsummary's traps."""

import contextlib
import io

import torch
import torchsummary
from torch import nn

from eva_utils.dataflow import copy_of, trace_dataflow
from eva_utils.fields import follow
from eva_utils.receptive_field import format_sizes


def summary(model: nn.Module, input_size: tuple[int, int, int] = (3, 32, 32), *, receptive_field: bool = False) -> str:
    """Print and return torchsummary's table of the model's layers, output shapes and parameters.

    ``input_size`` is one image's (channels, height, width). The table is made from a copy of the model on the CPU, in
    eval mode, so that the model, its mode, its BatchNorm statistics, its hooks and the random state stay as they were,
    on whatever device it is, also if the forward pass fails. As in torchsummary, layers stand in the order in
    which they ran, sequences have no row, and each row counts what it has as weight and bias: where the model has more
    parameters, or shares some, a last line says how many there are. ``receptive_field=True`` adds a column with each
    row's receptive field in pixels, as :func:`receptive_field` computes it, and raises its errors. Raises ValueError
    for a model on the meta device or compiled by torch.jit.
    """
    clone = copy_of(model)
    table = io.StringIO()
    with (
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
        contextlib.redirect_stdout(table),
    ):
        torchsummary.summary(clone, input_size, device="cpu")
    text = table.getvalue()
    if receptive_field:
        text = _with_fields(text, _fields(clone, input_size))
    count = sum(p.numel() for p in clone.parameters())
    if f"\nTotal params: {count:,}\n" not in text:
        text += f"The model has {count:,} parameters: some are no layer's weight or bias, or are shared.\n"
    print(text, end="")
    return text


def _fields(model: nn.Module, input_size: tuple[int, int, int]) -> list[str]:
    """Return the receptive field of each module that torchsummary gives a row, in its order."""
    flow = trace_dataflow(model, input_size)
    views = follow(flow)
    rows: list[str] = []
    for call in flow.calls:
        if not isinstance(call.module, nn.Sequential | nn.ModuleList):
            view = views.get(call.outputs[0]) if call.outputs else None
            # torchsummary gives a module that several others share a row for each of them
            rows += [format_sizes(view.sizes) if view else "-"] * call.owners
    return rows


def _with_fields(table: str, fields: list[str]) -> str:
    """Return torchsummary's table with one more column."""
    title = "Receptive Field"
    lines, rules, rows = [], 0, iter(fields)
    for line in table.splitlines():
        if set(line) in ({"-"}, {"="}):
            rules += line[0] == "="
            line += line[0] * (2 + len(title))
        elif line.lstrip().startswith("Layer (type)"):
            line = f"{line:<64}  {title}"
        elif rules == 1:
            line = f"{line:<64}  {next(rows):>{len(title)}}"
        lines.append(line)
    return "\n".join(lines) + "\n"
