"""Reads sets of 3D scans with photos in their publishers' layouts, from your own copy; nothing is downloaded.

Layouts ("auto" recognises them):

- "folder": one folder a person: `scan.*` (OBJ, PLY, STL, OFF, GLB, VRML or XYZ), `landmarks.txt` or `landmarks.pp`, and
  photos with any names. That scan shows the neutral face. A photo `smile.jpg` may have a scan of its own moment,
  `smile.ply`, with `smile.txt` or `smile.pp`; then `scan.*` may be missing.
- "now": `scans/SUBJECT/*.obj`, `scans_lmks_onlypp/SUBJECT/*.pp`, and photos in
  `[NoW_Dataset/][final_release_version/]iphone_pictures/SUBJECT/CHALLENGE/*`; `imagepathsvalidation.txt`, if there,
  says which photos count.
- "bu3dfe": `F0001/F0001_AN01WH_F3D.wrl`, `_F3D.bnd` (83 landmarks) and the photo `_F2D.bmp` (or .png, .jpg); NE is
  neutral.
- "facewarehouse": `Tester_1/TrainingPose/pose_0.obj` with `pose_0.png` (or .bmp, .jpg), `Tester_1/Blendshape/shape.bs`
  (its first shape is neutral), and, marked by you once for the mesh that all share, `landmark_vertices.txt`.

A landmark file holds 7 rows (outer and inner corner of the right eye, inner and outer corner of the left eye, base of
the nose, right and left mouth corner; right is the subject's right) or 68 (iBUG), each `x y z` in the scan's frame or
one vertex number from 0. NoW's files are taken to have the same order of 7, which is unverified. A file `unit.txt` in
the set's folder (mm, cm, dm or m) says what lengths are in where it is not millimetres (decimetres for facewarehouse).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmlfast.common.folders import files_in, find_file
from fmlfast.common.text_files import read_text
from fmlfast.evaluation.scans.readers import read_landmarks, read_points
from fmlfast.ibug68 import EYES_APART
from fmlfast.mesh_io import MILLIMETRES

NOW_POINTS = (36, 39, 42, 45, 33, 48, 54)  # iBUG numbers of the 7 landmarks
STEADY_POINTS = tuple(i for i in range(17, 68) if i not in (60, 64))  # of 68, without the sliding jaw line
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SCANS = (".obj", ".ply", ".stl", ".off", ".glb", ".wrl", ".xyz")


@dataclass(frozen=True)
class Scan:
    """A scan of a face in millimetres: points [P, 3] and landmarks [K, 3] with their iBUG numbers."""

    points: NDArray[np.float64]
    landmarks: NDArray[np.float64]
    numbers: tuple[int, ...]

    def landmark(self, number: int) -> NDArray[np.float64]:
        """Returns the landmark [3] of an iBUG number, mm."""
        return self.landmarks[self.numbers.index(number)]


@dataclass(frozen=True)
class ScanFile:
    """Paths of a scan and its landmarks, and their unit in millimetres."""

    path: Path
    landmarks: Path
    millimetres: float

    def read(self) -> Scan:
        """Reads the scan; raises ValueError, naming the file, where it is malformed or its unit implausible."""
        points = read_points(self.path)
        landmarks = read_landmarks(self.landmarks, points)
        numbers = NOW_POINTS
        if len(landmarks) == 68:
            landmarks, numbers = landmarks[list(STEADY_POINTS)], STEADY_POINTS
        scan = Scan(points * self.millimetres, landmarks * self.millimetres, numbers)
        apart = float(np.linalg.norm(scan.landmark(36) - scan.landmark(45)))
        if not EYES_APART[0] <= apart <= EYES_APART[1]:
            raise ValueError(
                f"{self.landmarks}: the outer eye corners are {apart:.4g} mm apart, but people have about 90; check "
                f"the order of the landmarks, or state the unit in unit.txt in the set's folder: "
                f"{', '.join(MILLIMETRES)}"
            )
        return scan


@dataclass(frozen=True)
class Photo:
    """A photo and, where there is one, the scan taken at the same moment."""

    path: Path
    scan: ScanFile | None = None


@dataclass(frozen=True)
class Person:
    """One person's photos and, where there is one, a scan of the neutral face."""

    name: str
    layout: str
    photos: tuple[Photo, ...]
    neutral: ScanFile | None

    @property
    def scans(self) -> list[ScanFile]:
        """Lists all scans of this person."""
        own = [photo.scan for photo in self.photos]
        return [file for file in (self.neutral, *own) if file is not None]


Layout = tuple[list[Path], Callable[[Path], Person]]  # the people's folders, and the reader of one


def read_scans(folder: str | Path, layout: str = "auto") -> tuple[list[Person], dict[str, str]]:
    """Lists the people of a scan set with their photos and scan files, by name, and the incomplete ones' reasons.

    layout: "auto" or one of LAYOUTS. Scans themselves are read later, by ScanFile.read. Raises ValueError for unknown
    layouts, and for folders without a complete person, saying what is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name the folder of a scan set")
    if layout != "auto" and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose auto, {', '.join(LAYOUTS)}")
    layout = _recognise(folder) if layout == "auto" else layout
    homes, read = LAYOUTS[layout](folder)
    people, incomplete = [], {}
    for home in homes:
        try:
            people.append(read(home))
        except ValueError as error:
            incomplete[home.name] = str(error)
    people = [person for person in people if person.photos]
    if not people:
        reason = f"the first reason: {next(iter(incomplete.values()))}; " if incomplete else ""
        raise ValueError(
            f"{folder}: no person with photos and a scan in layout {layout!r}; {reason}see docs/evaluation.md"
        )
    return people, incomplete


def _recognise(folder: Path) -> str:
    if (folder / "scans").is_dir() and (folder / "scans_lmks_onlypp").is_dir():
        return "now"
    names = [child.name for child in folder.iterdir() if child.is_dir()]
    if any(re.fullmatch(r"[FM]\d{4}", name) and any(_bu3dfe_scans(folder / name)) for name in names):
        return "bu3dfe"
    return "facewarehouse" if any(re.fullmatch(r"Tester_\d+", name) for name in names) else "folder"


def _folder(root: Path) -> Layout:
    unit = _unit(root, "mm")

    def read(home: Path) -> Person:
        scan = _one(home, "scan", SCANS)
        neutral = None if scan is None else ScanFile(scan, _need_landmarks(home / "landmarks", scan), unit)
        photos = []
        for picture in _pictures(home):
            if picture.stem == "scan":  # a texture
                continue
            own = _one(home, picture.stem, SCANS)
            file = None if own is None else ScanFile(own, _need_landmarks(home / picture.stem, own), unit)
            photos.append(Photo(picture, file))
        if photos and neutral is None and not any(photo.scan for photo in photos):
            raise ValueError(f"{home}: photos without a scan; add scan.ply (or {', '.join(SCANS)})")
        if neutral is not None and not photos:
            raise ValueError(f"{home}: a scan without photos; add some ({', '.join(PICTURES)}) or take the folder away")
        return Person(home.name, "folder", tuple(photos), neutral)

    return _children(root), read


def _now(root: Path) -> Layout:
    unit = _unit(root, "mm")
    pictures = next((path for path in sorted(root.glob("**/iphone_pictures")) if path.is_dir()), None)
    if pictures is None:
        raise ValueError(f"{root}: no folder iphone_pictures with the photos of NoW")
    listed = root / "imagepathsvalidation.txt"
    chosen = set(read_text(listed).split()) if listed.is_file() else None

    def read(home: Path) -> Person:
        scan = next(iter(files_in(home, (".obj",))), None)
        marks = next(iter(files_in(root / "scans_lmks_onlypp" / home.name, (".pp",))), None)
        if scan is None or marks is None:
            missing = f"scans/{home.name}/*.obj" if scan is None else f"scans_lmks_onlypp/{home.name}/*.pp"
            raise ValueError(f"{root}: {missing} is missing")
        found = [picture for group in _children(pictures / home.name) for picture in _pictures(group)]
        photos = [Photo(p) for p in found if chosen is None or p.relative_to(pictures).as_posix() in chosen]
        return Person(home.name, "now", tuple(photos), ScanFile(scan, marks, unit))

    return _children(root / "scans"), read


def _bu3dfe(root: Path) -> Layout:
    unit = _unit(root, "mm")

    def read(home: Path) -> Person:
        photos, neutral = [], None
        for scan in _bu3dfe_scans(home):
            marks = _one(home, scan.stem, (".bnd",))
            if marks is None:
                raise ValueError(f"{scan.with_suffix('.bnd')} is missing: the landmarks of {scan.name}")
            file = ScanFile(scan, marks, unit)
            picture = _one(home, scan.stem.replace("_F3D", "_F2D"), PICTURES)
            if picture is not None:
                photos.append(Photo(picture, file))
            if re.search(r"_NE00", scan.stem):
                neutral = file
        return Person(home.name, "bu3dfe", tuple(photos), neutral)

    return [home for home in _children(root) if re.fullmatch(r"[FM]\d{4}", home.name)], read


def _facewarehouse(root: Path) -> Layout:
    unit = _unit(root, "dm")
    marks = root / "landmark_vertices.txt"
    if not marks.is_file():
        raise ValueError(
            f"{marks} is missing: FaceWarehouse has no 3D landmarks; write there the vertex numbers, from 0, of the 7 "
            "points of docs/evaluation.md on any of its meshes, which all share one topology"
        )

    def read(home: Path) -> Person:
        photos = []
        meshes = files_in(home / "TrainingPose", (".obj",))
        poses = [path for path in meshes if re.fullmatch(r"pose_\d+", path.stem)]
        for scan in sorted(poses, key=lambda path: int(path.stem[5:])):
            picture = _one(scan.parent, scan.stem, PICTURES)
            if picture is not None:
                photos.append(Photo(picture, ScanFile(scan, marks, unit)))
        shape = home / "Blendshape" / "shape.bs"
        neutral = ScanFile(shape, marks, unit) if shape.is_file() else None
        return Person(home.name, "facewarehouse", tuple(photos), neutral)

    homes = [home for home in _children(root) if re.fullmatch(r"Tester_\d+", home.name)]
    return sorted(homes, key=lambda home: int(home.name[7:])), read


LAYOUTS: dict[str, Callable[[Path], Layout]] = {
    "folder": _folder,
    "now": _now,
    "bu3dfe": _bu3dfe,
    "facewarehouse": _facewarehouse,
}


def _unit(root: Path, usual: str) -> float:
    stated = root / "unit.txt"
    name = read_text(stated).strip() if stated.is_file() else usual
    if name not in MILLIMETRES:
        raise ValueError(f"{stated}: unknown unit {name!r}; write one of {', '.join(MILLIMETRES)}")
    return MILLIMETRES[name]


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path) -> list[Path]:
    return files_in(folder, PICTURES)


def _bu3dfe_scans(folder: Path) -> list[Path]:
    return [path for path in files_in(folder, (".wrl",)) if path.stem.endswith("_F3D")]


def _one(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    return next((path for suffix in suffixes if (path := find_file(folder, f"{stem}{suffix}"))), None)


def _need_landmarks(base: Path, scan: Path) -> Path:
    found = _one(base.parent, base.name, (".txt", ".pp"))
    if found is not None:
        return found
    raise ValueError(f"{base}.txt (or .pp) is missing: the 7 or 68 landmarks of {scan.name}, one `x y z` a line")
