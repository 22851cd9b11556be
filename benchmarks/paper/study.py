"""Defines a study: settings to change, what to measure of each trained model, what to write."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.paper.rows import Row
from fmlfast.evaluation.protocol import Evaluation
from fmlfast.model.fml import FML
from train import PRESETS, Config

T = TypeVar("T")
Changes = Mapping[str, Any]
"""Fields of train.Config by dotted name, such as {"loss.photometric": 0.0}, with the values a variant gives them."""
Table = dict[str, dict[str, float]]
"""Row -> metric -> value."""
LONG_CLIP = 8
"""Frames of the second test set's clips."""


@dataclass(frozen=True)
class Case:
    """What a trained model is measured on."""

    data: Path
    """Clips with the splits train and test."""
    long_clips: Path
    """The same test people in clips of LONG_CLIP frames."""
    refine: int
    """Steps of refinement."""
    clips: int | None = None
    """At most so many test clips; all where None."""
    variant: str = ""
    """Which variant of the study the model is."""


@dataclass(frozen=True)
class Measured:
    """What a study found of one model."""

    metrics: Table
    spread: Table = field(default_factory=dict)
    """Standard errors over people."""

    @staticmethod
    def of(result: Evaluation) -> "Measured":
        """An evaluation's table."""
        spread = {row: {k: v for k, v in result.table["spread"][row].items() if v is not None} for row in result.frames}
        return Measured({row: result.table[row] for row in result.frames}, spread)

    def __or__(self, other: "Measured") -> "Measured":
        return Measured(self.metrics | other.metrics, self.spread | other.spread)

    def named(self, names: Mapping[str, str]) -> "Measured":
        """Some of the rows under new names."""
        tables = (self.metrics, self.spread)
        return Measured(*({new: table[old] for old, new in names.items() if old in table} for table in tables))


@dataclass(frozen=True)
class Study:
    """One question: its variants are trained, each trained model is measured, and the section tells what was found."""

    name: str
    title: str
    """Heading of its section."""
    about: str
    """What is done and how it is measured, a paragraph of Markdown."""
    variants: Callable[[Config], Mapping[str, Changes]]
    """From the default run's settings to each variant's changes of them; what changes nothing is the default run, which
    all studies share."""
    measure: Callable[[FML, Case], Measured]
    section: Callable[[Sequence[Row], Path], str]
    """This study's rows of one budget and the docs folder, for figures in its images/ -> Markdown: verdicts, tables."""
    long_clips: bool = False
    """Whether it needs the clips of LONG_CLIP frames."""


def base_config(budget: str) -> Config:
    """Returns the default run of a budget: "cpu" or "gpu". Evaluation and pictures are left to the studies."""
    preset, device = {"cpu": ("cpu", "cpu"), "gpu": ("base", "cuda")}[budget]
    quiet = {"evaluate": False, "tensorboard": False, "preview_every": PRESETS[preset].steps}
    return replace(PRESETS[preset], device=device, **quiet)


def changed(config: T, changes: Changes) -> T:
    """Changes some fields of the settings, named with dots. Raises ValueError for a field that is not there."""
    for name, value in changes.items():
        config = _changed(config, name.split("."), value)
    return config


def _changed(config: Any, path: list[str], value: Any) -> Any:
    if not is_dataclass(config) or path[0] not in {f.name for f in fields(config)}:
        raise ValueError(f"{type(config).__name__} has no setting {path[0]!r}")
    if len(path) > 1:
        value = _changed(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})  # type: ignore[type-var]
