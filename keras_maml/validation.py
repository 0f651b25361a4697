"""Checks of arguments."""

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


def check_bool(name: str, value: Any) -> bool:
    """Returns `value`, or raises a ValueError naming `name`."""
    if not isinstance(value, bool):
        raise ValueError(
            f"`{name}` must be True or False. Received: {name}={value!r}"
        )
    return value


def check_choice(name: str, value: Any, choices: tuple) -> Any:
    """Returns `value`, or raises a ValueError naming `name`."""
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )
    return value


def check_seed(value: Any) -> int:
    """Returns `value` as an int, or raises a ValueError."""
    return check_integer("seed", value, minimum=0, maximum=MAX_SEED)


def layer_seed(seed: int, index: int) -> int:
    """Returns the seed of layer `index` of a model with the seed `seed`.

    With the same seed, layers of equal shape would start with equal weights.
    """
    return 1000 * seed + index


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


def check_number(
    name: str,
    value: Any,
    minimum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> float:
    """Returns `value` as a finite float within the given bounds."""
    bounds = []
    is_valid = (
        not isinstance(value, bool)
        and isinstance(value, numbers.Real)
        and math.isfinite(value)
    )
    if minimum is not None:
        bounds.append(f"of at least {minimum}")
        is_valid = is_valid and value >= minimum
    if above is not None:
        bounds.append(f"above {above}")
        is_valid = is_valid and value > above
    if below is not None:
        bounds.append(f"below {below}")
        is_valid = is_valid and value < below
    if maximum is not None:
        bounds.append(f"of at most {maximum}")
        is_valid = is_valid and value <= maximum
    if not is_valid:
        raise ValueError(
            f"`{name}` must be a finite number {' and '.join(bounds)}. "
            f"Received: {name}={value!r}"
        )
    return float(value)
