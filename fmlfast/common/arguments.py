"""Checks arguments of public functions before the work."""

import operator
from typing import Any


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises ValueError, naming the argument, unless it is an integer of at least `least`."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
