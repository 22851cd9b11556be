"""Writes a self-contained HTML report of a run: results, images, curves, configuration and machine."""

import base64
import html
import io
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from fmlfast.common.atomic import atomic_path
from fmlfast.common.text_files import parse_json, read_json, read_text
from fmlfast.evaluation.table import MEAN_FACE, METRICS, row_name
from fmlfast.visualization.curves import training_curves

LABELS = {
    "vertex_mm": ("geometry", "mm"),
    "neutral_mm": ("neutral geometry", "mm"),
    "normal_deg": ("normals", "°"),
    "landmark_nme": ("landmarks", "% of eye distance"),
    "photometric": ("colour", "of 255"),
    "rotation_deg": ("head rotation", "°"),
    "tone_log": ("skin tone", "logarithm"),
    "pattern": ("reflectance pattern", "of 1"),
}
MOST_QUANTITIES = 100  # of a training log
_STYLE = Path(__file__).with_name("report.css")


def write_report(run: str | Path) -> Path:
    """Writes `report.html` into a run folder from the files there, and returns its path.

    config.json is required; metrics.jsonl, evaluation.json, error_map.png and previews/ are shown if present. Images
    are embedded in the page. Raises ValueError where the folder is no run or one of these files is damaged.
    """
    run = Path(run)
    config = _read_json(run / "config.json")
    if config is None:
        raise ValueError(f"{run} is not a run folder: config.json is missing; train with train.py first")
    history = read_history(run / "metrics.jsonl")
    evaluation = _read_json(run / "evaluation.json")
    try:
        body = [_header(run.resolve().name, history, evaluation)]
        if evaluation is not None:
            body += [
                _results(evaluation),
                _expressions(evaluation),
                _figure(run / "error_map.png", "Mean distance to the true geometry with expression, per vertex."),
            ]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{run / 'evaluation.json'}: damaged: {error!r}; evaluate the run anew") from error
    try:
        settings = _settings(config)
    except RecursionError as error:
        raise ValueError(f"{run / 'config.json'}: damaged: its settings are nested too deep") from error
    body += [_previews(run / "previews"), _curves(history), settings, _machine()]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(run.resolve().name)} · fmlfast</title><style>\n{_STYLE.read_text()}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    with atomic_path(run / "report.html") as path:
        path.write_text(page, encoding="utf-8", errors="backslashreplace")  # names that are no Unicode
    return run / "report.html"


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Reads the numbers of a metrics.jsonl as one dict per step, ordered by "step"; [] without a file.

    Of a step that was logged again after a resume, the last line counts. An unfinished last line, left by a crash, is
    skipped. Raises ValueError for any other line that is not a JSON object with a step.
    """
    path = Path(path)
    lines = read_text(path).splitlines() if path.is_file() else []
    history: dict[float, dict[str, float]] = {}
    for number, line in enumerate(lines):
        try:
            record = parse_json(line, path)
            numbers = {k: float(v) for k, v in record.items() if _is_number(v)}
            history[numbers["step"]] = numbers
        except (ValueError, KeyError, AttributeError, OverflowError) as error:
            if number + 1 < len(lines):
                raise ValueError(f"{path}: line {number + 1} is damaged: {error!r}") from error
    if len({name for numbers in history.values() for name in numbers}) > MOST_QUANTITIES:
        raise ValueError(f"{path}: damaged: over {MOST_QUANTITIES} quantities, each a panel of the report")
    return [history[step] for step in sorted(history)]


# ---------------------------------------------------------------------------------------------------- the sections


def _header(name: str, history: list[dict[str, float]], evaluation: dict[str, Any] | None) -> str:
    facts = []
    if evaluation is not None:
        for row, ratios in evaluation.get("ratios", {}).items():
            if "vertex_mm" in ratios and row.startswith("frames_") and row != "frames_1":
                facts.append((f"{ratios['vertex_mm']:.2f}", f"of the mean face's error, {row_name(row)}"))
        if "people" in evaluation:
            facts.append((str(evaluation["people"]), f"people of the {evaluation['split']} split"))
    if history:
        facts.append((f"{history[-1]['step']:g}", "training steps"))
    rates = sorted(record["frames_per_second"] for record in history if "frames_per_second" in record)
    if rates:
        facts.append((f"{rates[len(rates) // 2]:.0f}", "frames per second, median"))
    cards = "".join(f"<div><b>{_text(value)}</b><span>{_text(label)}</span></div>" for value, label in facts)
    when = datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    return f'<h1>{html.escape(name)}</h1><p>fmlfast training run, reported {when}</p><div class="facts">{cards}</div>'


def _results(evaluation: dict[str, Any]) -> str:
    rows = [key for key in evaluation if key == MEAN_FACE or key.startswith(("frames_", "simulated_"))]
    rows = [row for row in rows if isinstance(evaluation[row], dict)]
    columns = [name for name in METRICS if any(name in evaluation[row] for row in rows)]
    head = "".join(f"<th>{LABELS[name][0]}<br><small>{LABELS[name][1]}</small></th>" for name in columns)
    lines = []
    for row in rows:
        cells = []
        for name in columns:
            value, ratio = evaluation[row].get(name), evaluation.get("ratios", {}).get(row, {}).get(name)
            spread = (evaluation.get("spread", {}).get(row) or {}).get(name)
            text = "–" if value is None else f"{value:.3g}"
            text += "" if spread is None else f" <small style='display:inline'>± {spread:.2g}</small>"
            text += "<small>&nbsp;</small>" if ratio is None else f"<small>× {ratio:.3f}</small>"
            cells.append(f'<td class="{"first" if name == columns[0] else ""}">{text}</td>')
        lines.append(f"<tr><th>{_text(row_name(row))}</th>{''.join(cells)}</tr>")
    notes = (
        "Means over people, ± one standard error; × is the ratio to the mean face. Geometry is compared after "
        "similarity alignment over the face region. Landmarks: 66 points, the jaw line included. Colour: mean absolute "
        "sRGB difference over the rendered face."
    )
    if "landmarks" in evaluation:
        notes += f" The methods' landmarks: {_text(evaluation['landmarks'])}."
    floor = evaluation.get("floor")
    if floor is not None:
        notes += (
            f" Floor of the neutral geometry: {floor['graph']:.2f} mm for the deformation graph, "
            f"{floor['complement']:.2f} mm for a basis held by the complement of rank "
            f"{_text(floor['complement_rank'])}."
        )
    counts = ", ".join(f"{_text(evaluation[key])} {key}" for key in ("people", "clips", "frames") if key in evaluation)
    notes += f" {counts}." if counts else ""
    return (
        f"<h2>Results on the {_text(evaluation.get('split', ''))} split</h2>"
        f'<table class="results"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
        f"<p>{notes}</p>"
    )


def _expressions(evaluation: dict[str, Any]) -> str:
    """Tables the ten commonest expressions: mean absolute error, in small type over active frames and correlation."""
    named = evaluation.get("expressions")
    if named is None:
        return ""
    rows = list(named["mean_error"])
    head = "".join(f"<th>{_text(row_name(row))}</th>" for row in rows)
    lines = []
    for name in named["commonest"]:
        known = named["by_name"][name]
        cells = (f"<td>{_number(known[row]['error'], 3)}<small>{_hints(known[row])}</small></td>" for row in rows)
        frames = f"<small>&nbsp;{known['active']:.0%} of frames</small>"
        lines.append(f"<tr><th>{_text(name)}{frames}</th>{''.join(cells)}</tr>")
    means = (
        f"<td>{_number(named['mean_error'][row], 3)}<small>{_number(named['mean_active_error'][row], 2)}</small></td>"
        for row in rows
    )
    lines.append(f"<tr><th>mean</th>{''.join(means)}</tr>")
    return (
        f'<h2>Expressions</h2><table class="results"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table><p>Mean absolute error of the coefficients of the ten commonest named "
        "expressions, both sides together; in small type the error over frames where the true one is above 0.1, and "
        "the correlation. Some expressions move the face alike and cannot be told from each other.</p>"
    )


def _hints(known: dict[str, float | None]) -> str:
    return f"{_number(known['active_error'], 2)} · r {_number(known['correlation'], 2)}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _previews(folder: Path) -> str:
    pictures = sorted(folder.glob("*.png"))
    if not pictures:
        return ""
    chosen = sorted({0, len(pictures) // 2, len(pictures) - 1})
    figures = (_figure(pictures[i], f"Step {pictures[i].stem.removeprefix('step-').lstrip('0') or 0}") for i in chosen)
    return f"<h2>How it learned</h2>{''.join(figures)}"


def _curves(history: list[dict[str, float]]) -> str:
    try:
        figure = training_curves(history)
    except ImportError as error:  # a run is reported all the same
        return f"<h2>Training</h2><p>No curves: {html.escape(str(error))}.</p>"
    if figure is None:
        return ""
    picture = io.BytesIO()
    figure.savefig(picture, dpi=150)
    return f"<h2>Training</h2>{_embedded(picture.getvalue(), 'Training, by step.')}"


def _settings(config: dict[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if not isinstance(value, dict)}
    groups = ([("run", plain)] if plain else []) + [(k, v) for k, v in config.items() if isinstance(v, dict)]
    tables = (
        f"<section><h3>{html.escape(name)}</h3>{_facts_table(values.items())}</section>" for name, values in groups
    )
    return f'<h2>Configuration</h2><div class="settings">{"".join(tables)}</div>'


def machine() -> dict[str, str]:
    """Describes the machine and software: device, CPU threads, torch, Python, system, commit."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else _cpu_name(),
        "cpu threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _commit() or "not in a git checkout",
    }


def _machine() -> str:
    facts = machine().items()
    return f'<h2>Machine</h2><div class="settings"><section>{_facts_table(facts)}</section></div>'


# --------------------------------------------------------------------------------------------------------- helpers


def _figure(path: Path, caption: str) -> str:
    if not path.is_file():
        return ""
    return _embedded(path.read_bytes(), caption)


def _embedded(png: bytes, caption: str) -> str:
    data, text = base64.b64encode(png).decode(), html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _facts_table(facts: Iterable[tuple[str, Any]]) -> str:
    rows = (f"<tr><td>{_text(k)}</td><td>{_text(_plain(v))}</td></tr>" for k, v in facts)
    return f"<table>{''.join(rows)}</table>"


def _text(value: Any) -> str:
    """Writes what a file holds as text of the page, whose tags do nothing."""
    return html.escape(str(value))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return {None: "none", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool) else str(value)


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str | None:
    """Returns the short git hash of this package's checkout, with "+" for uncommitted changes; None without git."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
