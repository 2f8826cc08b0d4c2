"""The clauses that the training policy must meet."""

from collections.abc import Iterator, Sequence
from typing import Any

import albumentations as A

from eva_utils.assignment.clause import Clause


def augmentations(transform: A.Compose | None, mean: Sequence[float], *, grey: bool) -> list[Clause]:
    """Return the clauses on the policy, open where there is none."""
    steps = None if transform is None else list(_steps(transform))
    normalized = [number for number, step in enumerate(steps or []) if isinstance(step, A.Normalize)]
    early = (steps or [])[: normalized[0]] if normalized else steps or []
    wanted = [
        ("horizontal flip", "p over 0", [step for step in steps or [] if isinstance(step, A.HorizontalFlip | A.D4)]),
        ("shift, scale, rotate", "all three", _shifts_scales_rotates(steps or [])),
        ("coarse dropout", "one 16x16 hole of the mean", [s for s in steps or [] if _is_hole(s, mean, s in early)]),
    ]
    wanted += [("to grey", "p over 0", [step for step in steps or [] if isinstance(step, A.ToGray)])] if grey else []
    clauses = []
    for name, required, found in wanted:
        text = ", ".join(f"{type(step).__name__}, p {step.p:g}" for step in found) or "none"
        if steps is None:
            clauses.append(Clause(name, required, "no policy given", "", None))
        else:
            clauses.append(Clause(name, required, text, "", bool(found)))
    return clauses


def _steps(transform: Any) -> Iterator[Any]:
    """Give the single steps of a policy that are ever taken, also of policies within it."""
    if transform.p <= 0 or getattr(transform, "n", 1) == 0:
        return
    if not isinstance(transform, A.BaseCompose):
        yield transform
        return
    for step in transform.transforms:
        yield from _steps(step)


def _shifts_scales_rotates(steps: list[Any]) -> list[Any]:
    """Return the steps that together shift, scale and rotate, or none if one of these is missing."""
    does: dict[str, list[Any]] = {"shift": [], "scale": [], "rotate": []}
    for step in steps:
        if isinstance(step, A.Affine):  # ShiftScaleRotate is one, too
            shift = step.translate_percent or step.translate_px or {}
            does["shift"] += [step] * any(tuple(reach) != (0, 0) for reach in shift.values())
            does["scale"] += [step] * any(tuple(reach) != (1, 1) for reach in step.scale.values())
            does["rotate"] += [step] * (tuple(step.rotate) != (0, 0))
        does["rotate"] += [step] * isinstance(step, A.Rotate | A.SafeRotate)
        does["scale"] += [step] * isinstance(step, A.RandomScale)
    if not all(does.values()):
        return []
    return [step for step in steps if any(step is other for found in does.values() for other in found)]


def _is_hole(step: Any, mean: Sequence[float], early: bool) -> bool:
    """Tell whether a step cuts one hole of the mean, which is 0 once the image is normalised."""
    if not isinstance(step, A.CoarseDropout) or isinstance(step.fill, str):
        return False
    sides = (*step.hole_height_range, *step.hole_width_range)
    one = tuple(step.num_holes_range) == (1, 1) and all(side in (16, 0.5) for side in sides)
    fill = step.fill if isinstance(step.fill, tuple | list) else [step.fill] * len(mean)
    wanted = [255 * level if early else 0 for level in mean]
    close = [abs(value - level) <= (1 if early else 0.01) for value, level in zip(fill, wanted, strict=False)]
    return one and all(close)
