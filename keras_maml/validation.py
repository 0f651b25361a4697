"""Checks of arguments, shared by the constructors."""

import math
import numbers
from typing import Any

# numpy's frozen generator, which shuffles classes, takes 32-bit seeds.
MAX_SEED = 2**32 - 1


def check_integer(
    name: str, value: Any, minimum: int = 1, maximum: int | None = None
) -> int:
    """Returns `value` as an int, or raises a ValueError naming `name`."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(
        value, bool
    )
    if not is_integer or value < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    if maximum is not None and value > maximum:
        raise ValueError(
            f"`{name}` must be an integer of at most {maximum}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def check_seed(value: Any) -> int:
    """Returns `value` as an int, or raises a ValueError."""
    return check_integer("seed", value, minimum=0, maximum=MAX_SEED)


def check_range(name: str, value: Any) -> tuple[float, float]:
    """Returns `value` as two finite floats in ascending order."""
    try:
        low, high = (float(bound) for bound in value)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"`{name}` must be two finite numbers, the smaller first. "
            f"Received: {name}={value!r}"
        )
    return low, high


def check_non_negative(name: str, value: Any) -> float:
    """Returns `value` as a finite float that is not negative."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not math.isfinite(value)
        or value < 0
    ):
        raise ValueError(
            f"`{name}` must be a finite number of at least 0. "
            f"Received: {name}={value!r}"
        )
    return float(value)
