"""Breaks work off in the middle, to see that it goes on."""

from collections.abc import Callable
from typing import Any


class Interrupted(Exception):
    """What breaks the work off; nothing else raises it."""


def failing(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """The function, broken off at its call number `at`."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Interrupted
        return function(*arguments, **named)

    return call
