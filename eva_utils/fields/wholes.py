"""Rules for operations whose units read the whole map: means, matrix products, attention, statistics."""

from dataclasses import replace

from eva_utils.dataflow import Operation, Value
from eva_utils.fields.view import (
    Part,
    View,
    Views,
    as_dim,
    chosen_dims,
    collapse,
    length,
    path_name,
    source,
    with_paths,
)


def reduce(operation: Operation, views: Views) -> list[View]:
    """Means, sums and the like over whole dimensions."""
    view = source(operation, views)
    gone = set(chosen_dims(operation, view))
    keep = operation.arguments.get("keepdim", False)
    result = collapse(view, [part for number in gone for part in view.dims[number]], operation)
    dims = [
        tuple(Part(1, part.axis) for part in dim[:1]) if number in gone else dim
        for number, dim in enumerate(view.dims)
        if keep or number not in gone
    ]
    dims = [tuple(part for part in dim if part.size > 1 or part.axis is not None) for dim in dims]
    return [replace(result, dims=tuple(dims))] * len(operation.outputs)


def multiply(operation: Operation, views: Views) -> list[View]:
    """Matrix products: the sum over one dimension of each factor."""
    arguments = operation.arguments
    names = next(pair for pair in (("mat1", "mat2"), ("batch1", "batch2"), ("self", "mat2")) if pair[0] in arguments)
    left, right = (arguments[name] for name in names)
    if names[0] != "self" and isinstance(arguments["self"], Value):
        raise ValueError("the image comes in through what is added to the product")
    if not all(isinstance(factor, Value) for factor in (left, right)):
        value, number = (left, -1) if isinstance(left, Value) else (right, -2)
        view = replace(views[value], joined=1)
        result = collapse(view, list(view.dims[number]), operation)
        dims = list(view.dims)
        dims[number] = as_dim(operation.outputs[0].shape[number])
        return [replace(result, dims=tuple(dims))]
    a, b = views[left], views[right]
    maps = [[view.spread(number) for number in (-2, -1)] for view in (a, b)]
    batch = [view.spread(number) for view in (a, b) for number in range(len(view.dims) - 2)]
    if any(batch) or (not maps[0][0] and any(map(any, maps))):
        raise ValueError("both factors of the product come from the map")
    # each place of the left factor weighs what comes from all places of the right one, as attention does
    result = replace(a, dims=(*a.dims[:-1], as_dim(length(b.dims[-1]))), joined=1)
    return [replace(result, paths=with_paths(a.paths + b.paths, [path_name((*b.pooled_by, operation)[0])]))]


def attention(operation: Operation, views: Views) -> list[View]:
    factors = [operation.arguments[name] for name in ("query", "key", "value")]
    if not all(isinstance(factor, Value) for factor in factors):
        raise ValueError("a query, key or value does not come from the image")
    query, key, value = (views[factor] for factor in factors)
    if any(view.spread(number) for view in (query, key, value) for number in range(len(view.dims) - 2)):
        raise ValueError("it attends along one axis of the map")
    whole = [path_name(operation)] if key.spread(-2) or value.spread(-2) else []
    result = replace(query, joined=1, paths=with_paths(query.paths + key.paths + value.paths, whole))
    return [replace(result, dims=(*query.dims[:-1], as_dim(operation.outputs[0].shape[-1])))]


def normalize(operation: Operation, views: Views) -> list[View]:
    """Normalisations and softmax: pointwise, but for statistics over the map."""
    view, args = source(operation, views), operation.arguments
    if "normalized_shape" in args:
        over = range(-len(args["normalized_shape"]), 0)
    elif "softmax" in operation.name:
        over = [args["dim"]]
    elif "batch_norm" in operation.name and not args.get("training", False):
        over = []
    else:
        over = range(2, len(view.dims))
    whole = [path_name(operation)] if any(view.spread(number) for number in over) else []
    return [replace(view, paths=with_paths(view.paths, whole))]
