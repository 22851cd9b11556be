"""Builds dataclasses from stored values, whose types are checked."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def of_values(cls: type[T], values: object) -> T:
    """Builds the dataclass `cls` from a dict of JSON values, or of what was made of them.

    Raises ValueError, naming the field, where one is missing, unknown or not of its type.
    """
    assert is_dataclass(cls)
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__} must be an object with named values, not {_short(values)}")
    kinds = get_type_hints(cls)
    if unknown := [name for name in values if name not in {field.name for field in fields(cls)}]:
        raise ValueError(f"{cls.__name__} has no {unknown[0]!r}")
    for name, value in values.items():
        if not _is(value, kinds[name]):
            raise ValueError(f"{name} must be {_name(kinds[name])}, not {_short(value)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ValueError(f"incomplete: {error}") from error


def _is(value: object, kind: Any) -> bool:
    """Tells whether a value is of an annotated type; a bool is no number, and an int may stand for a float."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in args)
    if origin in (Union, UnionType):
        return any(_is(value, choice) for choice in args)
    if origin in (tuple, list):
        return isinstance(value, origin) and all(_is(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(k, args[0]) and _is(v, args[1]) for k, v in value.items())
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, NoneType if kind is None else kind)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
