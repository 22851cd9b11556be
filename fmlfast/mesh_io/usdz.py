"""Writes scenes as USDZ, by the usd-core package."""

from pathlib import Path

from fmlfast.mesh_io.scene import Scene


def write_usdz(path: Path, scene: Scene) -> None:
    raise NotImplementedError
