"""What each tensor of a network sees of the image, followed from operation to operation.

On each axis a unit sees an interval of pixels. An operation says which units of its input each unit of its output
reads, and so the intervals of the output follow from those of the input, exactly: strides, dilations,
transposed convolutions and upsamplings are all the same step, :meth:`Axis.gather`.
"""

from dataclasses import replace

from eva_utils.dataflow import Dataflow, Operation
from eva_utils.fields import layouts, wholes, windows
from eva_utils.fields.axis import Axis
from eva_utils.fields.view import Part, Rule, View, Views, length


def follow(flow: Dataflow) -> Views:
    """Return what each tensor of a traced network sees.

    Raises ValueError naming the operation, and the module that it is in, that cannot be judged.
    """
    _, channels, *sizes = flow.image.shape
    dims = ((), (Part(channels),), *((Part(size, axis),) for axis, size in enumerate(sizes)))
    views = Views({flow.image: View(tuple(Axis() for _ in sizes), dims, (None,) * len(sizes))})
    for operation in flow.operations:
        try:
            results = _rule(operation)(operation, views)
            for value, view in zip(operation.outputs, results, strict=False):
                if tuple(map(length, view.dims)) != value.shape:
                    raise ValueError(f"its output {value.shape} is laid out in an unknown way")
                present = {part.axis for dim in view.dims for part in dim}
                axes = [axis if number in present else axis.still() for number, axis in enumerate(view.axes)]
                views[value] = replace(view, axes=tuple(axes))
        except ValueError as error:
            raise ValueError(f"cannot tell the receptive field behind {operation}: {error}") from None
    return views


def _rule(operation: Operation) -> Rule:
    if operation.name in RULES:
        return RULES[operation.name]
    if operation.pointwise:
        return layouts.pointwise
    raise ValueError("there is no rule for this operation")


def _rules(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


POOLS = [f"{kind}_pool{count}d{end}" for count in (1, 2, 3) for kind in ("avg", "max") for end in ("", "_with_indices")]
ADAPTIVE = [f"{start}adaptive_{kind}_pool{n}d" for start in ("", "_") for kind in ("avg", "max") for n in (1, 2, 3)]
WINDOWS = {"convolution", *POOLS, *ADAPTIVE}
PADS = [f"{kind}_pad{count}d" for kind in ("reflection", "replication") for count in (1, 2, 3)]
UPSAMPLINGS = [
    *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    *(f"{name}{count}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for count in (1, 2, 3)),
]

RULES: dict[str, Rule] = {
    # pointwise, though torch does not say so
    **_rules(layouts.pointwise, "hardtanh hardswish leaky_relu prelu _prelu_kernel rrelu_with_noise celu"),
    **_rules(
        layouts.same, "clone alias detach contiguous _to_copy lift_fresh native_channel_shuffle channel_shuffle dropout"
    ),
    **_rules(layouts.reshape, "view reshape _unsafe_view _reshape_alias as_strided view_copy _reshape_copy unflatten"),
    **_rules(layouts.permute, "permute"),
    **_rules(layouts.transpose, "transpose t"),
    **_rules(layouts.unsqueeze, "unsqueeze"),
    **_rules(layouts.squeeze, "squeeze"),
    **_rules(layouts.expand, "expand"),
    **_rules(layouts.split, "split split_with_sizes chunk unbind select glu"),
    **_rules(layouts.slice, "slice"),
    **_rules(layouts.concatenate, "cat"),
    **_rules(layouts.stack, "stack"),
    **_rules(layouts.repeat, "repeat"),
    **_rules(layouts.flip, "flip"),
    **_rules(layouts.pad, " ".join(["constant_pad_nd", *PADS])),
    **_rules(windows.convolution, "convolution"),
    **_rules(windows.pool, " ".join(POOLS)),
    **_rules(windows.adaptive_pool, " ".join(ADAPTIVE)),
    **_rules(windows.upsample, " ".join(UPSAMPLINGS)),
    **_rules(windows.pixel_shuffle, "pixel_shuffle pixel_unshuffle"),
    **_rules(
        wholes.reduce, "mean sum amax amin max min prod var std var_mean std_mean logsumexp linalg_vector_norm norm"
    ),
    **_rules(wholes.multiply, "mm addmm bmm baddbmm"),
    **_rules(
        wholes.attention,
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math _native_multi_head_attention",
    ),
    **_rules(
        wholes.normalize,
        "native_batch_norm _native_batch_norm_legit_no_training native_layer_norm native_group_norm _softmax "
        "_log_softmax",
    ),
}
