"""Defines `fmlfast info`."""

import os
import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fmlfast.cli.tables import aligned
from fmlfast.common.text_files import read_json
from fmlfast.common.version import __version__

EXTRA = re.compile(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]")
FOR_DEVELOPERS = ("dev", "docs")
Facts = list[tuple[str, str]]


def info(target: Annotated[Path | None, Positional, arg(metavar="RUN|RESULT|TRACK|CLIPS|VIDEO")] = None, /) -> None:
    """Shows versions, devices, extras and the shipped model; or what a run, result, tracked video or clip folder holds.

    Args:
        target: Folder of a run, reconstruction, tracked video or clips, or a video; by default this installation.
    """
    facts = installation() if target is None else describe(target)
    print(aligned(facts))


# ------------------------------------------------------------------------------------------------- this installation


def installation() -> Facts:
    """Lists versions, devices and backends, extras, the shipped model and the face detector's file."""
    import torch

    facts = [("fmlfast", f"{__version__} in {Path(__file__).parents[1]}")]
    facts += [("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")]
    facts += [("torch", torch.__version__), ("triton", _version("triton") or "none; the CPU needs none of it")]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        devices = [*(f"cuda:{i}, {name}: backends triton (default), torch" for i, name in enumerate(names))]
    else:
        devices = ["no GPU that torch sees"]
    devices.append(f"cpu, {torch.get_num_threads()} of {os.cpu_count()} threads: backend torch")
    facts += zip(("devices", *[""] * len(devices)), devices, strict=False)
    extras = [(name, _extra(name, packages)) for name, packages in _extras().items()]
    facts += [(f"extra {name}", state) for name, state in extras]
    return [*facts, ("shipped model", _shipped()), ("face detector", _detector())]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """Lists the extras' packages, as this installation's metadata names them."""
    try:
        required = metadata.requires("fmlfast") or []
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        required = []
    extras: dict[str, list[str]] = {}
    for package, extra in (match.groups() for text in required if (match := EXTRA.match(text))):
        if extra not in FOR_DEVELOPERS:
            extras.setdefault(extra, []).append(package)
    return extras


def _extra(name: str, packages: Iterable[str]) -> str:
    versions = {package: _version(package) for package in packages}
    missing = [package for package, version in versions.items() if version is None]
    present = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    if not missing:
        return present
    return f"{f'{present}; ' if present else ''}{', '.join(missing)} missing: pip install 'fmlfast[{name}]'"


def _shipped() -> str:
    from fmlfast.model.pretrained import default_checkpoint

    try:
        folder = default_checkpoint()
    except ValueError as error:
        return str(error)
    return _model(folder)


def _detector() -> str:
    from fmlfast.data.detector_model import NAME, VARIABLE, cache_path, is_published

    if given := os.environ.get(VARIABLE):
        return f"{given}, from {VARIABLE}{'' if Path(given).is_file() else ': no such file'}"
    path = cache_path()
    if not path.is_file():
        return f"{NAME} is not in {path.parent} yet; the first use downloads it"
    return f"{path}{'' if is_published(path.read_bytes()) else ': damaged; the next use downloads it anew'}"


# --------------------------------------------------------------------------------------------------- files and folders


def describe(path: Path) -> Facts:
    """Lists what a run, a result, a folder of clips or a video holds.

    Raises FileNotFoundError where nothing is there, ValueError where it is none of these, or damaged.
    """
    from fmlfast.reconstruction.inputs import is_video

    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if (path / "person-0").is_dir():
        return _tracked(path)
    for name, kind in (("parameters.json", _result), ("meta.json", _clips), ("config.json", _run)):
        if (path / name).is_file():
            try:
                return kind(path)
            except (LookupError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}: damaged: {error!r}") from error
    if path.is_file() and is_video(path):
        return _video(path)
    raise ValueError(f"{path} is no run, reconstruction, tracked video, folder of clips or video")


def _result(path: Path) -> Facts:
    from fmlfast.reconstruction.result import Reconstruction

    result = Reconstruction.load(path)
    template, texture = result.template, result.texture
    facts = [
        ("reconstruction", str(path)),
        ("mesh", f"{len(template.vertices)} vertices of template {template.name}, level {template.level}"),
        ("texture", "none" if texture is None else f"{len(texture)} x {len(texture)} px"),
        ("model", f"sha256 {result.model[:12]}"),
    ]
    errors = zip(result.names, result.photos, result.landmark_errors, strict=True)
    return facts + [
        (f"photo {name}", f"{photo.shape[1]} x {photo.shape[0]} px, landmarks off by {error:.2f} % of the eye distance")
        for name, photo, error in errors
    ]


def _tracked(path: Path) -> Facts:
    from fmlfast.reconstruction.track.tracked import load_people

    people = load_people(path)
    width, height = people[0].size
    facts = [("tracked video", str(path)), ("video", f"{people[0].video}, {width} x {height} px")]
    for number, person in enumerate(people):
        times, seen = person.track.time, int(person.track.seen.sum())
        spans = f"{len(times)} frames, {float(times[0]):.1f} to {float(times[-1]):.1f} s, seen in {seen}"
        facts.append((f"person-{number}", spans))
    return facts


def _clips(path: Path) -> Facts:
    from fmlfast.data.shards import list_clips, list_splits, read_meta

    meta = read_meta(path)
    settings = meta.get("settings") or {}
    made = f"{meta.get('generator', 'unknown')}, version {meta.get('version', 'unknown')}"
    facts = [("clips", str(path)), ("made by", made)]
    for split in list_splits(path):
        refs = list_clips(path, split)
        truth = " with ground truth" if any(path.glob(f"{split}-truth-*.tar")) else ""
        facts.append((f"split {split}", f"{len(refs)} clips, {sum(len(ref.images) for ref in refs)} frames{truth}"))
    return facts + [(name.replace("_", " "), str(value)) for name, value in settings.items() if value is not None]


def _run(path: Path) -> Facts:
    from fmlfast.evaluation.report import read_history  # here: it imports torch

    facts = [("run", str(path)), ("model", _model(path))]
    log = path / "metrics.jsonl"
    if log.is_file() and (history := read_history(log)):
        facts.append(("trained", f"{history[-1]['step']:g} steps"))
    if (path / "state.safetensors").is_file():
        facts.append(("state", "there: --resume with the same settings continues it"))
    table = read_json(path / "evaluation.json") if (path / "evaluation.json").is_file() else {}
    if table:
        facts.append(("evaluated on", f"{table.get('data')}, split {table.get('split')}, {table.get('people')} people"))
    for name, row in table.items():
        if name == "mean_face" or name.startswith("frames_"):
            shown = ", ".join(
                f"{metric} {value:.2f}" for metric, value in row.items() if isinstance(value, int | float)
            )
            facts.append((f"  {name}", shown))
    return facts


def _model(folder: Path) -> str:
    """Names the settings, size and digest of a run's model."""
    import hashlib

    stored = read_json(folder / "config.json")
    settings, template = stored.get("model", {}), stored.get("template", {})
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return "not trained to the end: model.safetensors is missing"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    sizes = ", ".join(
        f"{name} {settings.get(name)}" for name in ("level", "input_size", "identity_dim", "reflectance_dim")
    )
    return f"{weights.stat().st_size / 1e6:.1f} MB, sha256 {digest}, template {template.get('name')}, {sizes}"


def _video(path: Path) -> Facts:
    from fmlfast.data.video.decode import Video

    try:
        with Video(path).opened() as (container, stream):
            seconds = container.duration / 1e6 if container.duration else None  # of microseconds
            rate = float(stream.average_rate) if stream.average_rate else None
            sound = container.streams.audio[0].codec_context if container.streams.audio else None
            many = f"{stream.frames or 'unknown number'}, {f'{rate:.3g} a second' if rate else 'unknown rate'}"
            return [
                ("video", str(path)),
                ("picture", f"{stream.width} x {stream.height} px, {stream.codec_context.name}"),
                ("length", f"{seconds:.1f} s" if seconds else "unknown"),
                ("frames", many),
                ("sound", sound.name if sound else "none"),
            ]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
