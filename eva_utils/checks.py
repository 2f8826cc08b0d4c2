"""Arguments, looked at before anything is done with them; what is wrong is named with what to give instead."""

import math
import numbers
from typing import Any


def whole_number(name: str, value: Any, *, least: int, most: int | None = None) -> int:
    """Return the argument as an int, or raise ValueError unless it is whole and from ``least`` to ``most``."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if whole and least <= value and (most is None or value <= most):
        return int(value)
    wanted = f"{least} or more, a whole number" if most is None else f"a whole number from {least} to {most}"
    raise ValueError(f"{name}={value!r}: expected {wanted}")


def real_number(name: str, value: Any, *, least: float, most: float = math.inf) -> float:
    """Return the argument as a float, or raise ValueError unless it is finite and from ``least`` to ``most``."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if real and least <= value <= most:
        return float(value)
    wanted = f"a number from {least:g}" + (f" to {most:g}" if most < math.inf else "")
    raise ValueError(f"{name}={value!r}: expected {wanted}")


def instance(name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise ValueError unless the argument is of one of these types; ``wanted`` says how to get one."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} is a {type(value).__name__}: expected {wanted}")
