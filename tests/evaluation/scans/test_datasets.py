"""Scan sets in their publishers' layouts, as small generated files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmlfast.data.synthetic.people import PeopleSampler
from fmlfast.evaluation.scans.datasets import NOW_POINTS, STEADY_POINTS, ScanFile, read_scans
from fmlfast.evaluation.scans.readers import bu3dfe_to_seven, read_points
from fmlfast.mesh_io import write_mesh
from fmlfast.template.face_template import FaceTemplate

TEMPLATE = FaceTemplate.default(0)
TRIANGLES = TEMPLATE.triangles.numpy()


SAMPLER = PeopleSampler()


def head(seed: int) -> np.ndarray:
    """A random person's vertices [V, 3] in mm."""
    return SAMPLER.sample(np.random.default_rng(seed)).vertices.astype(np.float64)


def seven(vertices: np.ndarray) -> np.ndarray:
    """NoW's 7 landmarks of vertices."""
    return TEMPLATE.landmarks(torch.from_numpy(vertices).float()).double().numpy()[list(NOW_POINTS)]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


# ------------------------------------------------------------------------------------------------------ the layouts


def write_folder(root: Path) -> None:
    for number, name in enumerate(("anna", "ben")):
        vertices = head(number)
        picture(root / name / "one.jpg")
        picture(root / name / "scan.png")  # the scan's texture
        write_mesh(root / name / "scan.ply", vertices, TRIANGLES)
        np.savetxt(root / name / "landmarks.txt", seven(vertices), header="seven points")


def write_pp(path: Path, landmarks: np.ndarray) -> None:
    """MeshLab's picked points."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f' <point x="{x}" y="{y}" z="{z}" active="1" name="{n}"/>' for n, (x, y, z) in enumerate(landmarks.tolist())
    ]
    start = ["<!DOCTYPE PickedPoints>", "<PickedPoints>", " <DocumentData>", '  <DataFileName name="scan.obj"/>']
    path.write_text("\n".join([*start, " </DocumentData>", *lines, "</PickedPoints>"]) + "\n")


def write_now(root: Path) -> None:
    pictures = root / "NoW_Dataset" / "final_release_version" / "iphone_pictures"
    listed = []
    for number, name in enumerate(("FaMoS_1", "FaMoS_2")):
        vertices = head(number)
        (root / "scans" / name).mkdir(parents=True)
        write_mesh(root / "scans" / name / "natural_head.obj", vertices, TRIANGLES)
        write_pp(root / "scans_lmks_onlypp" / name / "natural_head_picked_points.pp", seven(vertices))
        for kind in ("multiview_neutral", "selfie"):
            picture(pictures / name / kind / "IMG_0001.jpg")
            picture(pictures / name / kind / "IMG_0002.jpg")
            listed.append(f"{name}/{kind}/IMG_0001.jpg")
    (root / "imagepathsvalidation.txt").write_text("\n".join(listed) + "\n")


def bu3dfe_landmarks(vertices: np.ndarray) -> np.ndarray:
    """83 points that ring eyes and mouth and run around the nose as BU-3DFE's do, from the 68 of the template."""
    marks = TEMPLATE.landmarks(torch.from_numpy(vertices).float()).double().numpy()

    def eye(start: int) -> list[np.ndarray]:
        ring = [marks[start + i] for i in range(6)]
        return [*ring[:2], (ring[1] + ring[2]) / 2, *ring[2:5], (ring[4] + ring[5]) / 2, ring[5]]

    base = [marks[33] + [x, 0.0, 0.0] for x in (-1.0, 1.0)]
    nose = [marks[39], marks[27], marks[31], marks[31], marks[32], *base, marks[34], marks[35], marks[35]]
    nose += [marks[27], marks[42]]
    brows = [marks[17 + i % 10] for i in range(20)]
    return np.array([*eye(36), *eye(42), *brows, *nose, *marks[48:60], *marks[60:68], *marks[:15]])


def write_wrl(path: Path, vertices: np.ndarray) -> None:
    """VRML 2 as BU-3DFE has it: texture coordinates and a comment beside the points."""
    points = ",\n".join(" ".join(f"{x:.6f}" for x in point) for point in vertices)
    path.write_text(
        "#VRML V2.0 utf8\nShape {\n geometry IndexedFaceSet {\n  # point [ 9 9 9 ]\n"
        "  texCoord TextureCoordinate { point [ 0.5 0.5, 0.25 0.75 ] }\n"
        f"  coord Coordinate {{\n   point [\n{points}\n   ]\n  }}\n  coordIndex [ 0, 1, 2, -1 ]\n }}\n}}\n"
    )


def write_bu3dfe(root: Path) -> None:
    for number, name in enumerate(("F0001", "M0002")):
        (root / name).mkdir(parents=True)
        for expression in ("NE00", "AN01"):
            vertices = head(number) + (expression == "AN01") * TEMPLATE.expressions[0].double().numpy()
            stem = f"{name}_{expression}WH"
            write_wrl(root / name / f"{stem}_F3D.wrl", vertices)
            rows = [f"{i}\t\t{x:.6f} {y:.6f} {z:.6f}" for i, (x, y, z) in enumerate(bu3dfe_landmarks(vertices))]
            (root / name / f"{stem}_F3D.bnd").write_text("\n".join(rows) + "\n")
            picture(root / name / f"{stem}_F2D.bmp")
            write_wrl(root / name / f"{stem}_RAW.wrl", vertices)


def write_facewarehouse(root: Path) -> None:
    for number in (1, 2, 10):
        home = root / f"Tester_{number}"
        (home / "TrainingPose").mkdir(parents=True)
        (home / "Blendshape").mkdir()
        neutral = head(number) / 100.0  # decimetres
        for pose in range(2):
            write_mesh(home / "TrainingPose" / f"pose_{pose}.obj", neutral, TRIANGLES)
            picture(home / "TrainingPose" / f"pose_{pose}.png")
            (home / "TrainingPose" / f"pose_{pose}.land").write_text("74\n0.5 0.5\n")
        shapes = np.concatenate([neutral, neutral + 1.0, neutral + 2.0]).astype("<f4")
        header = np.array([2, len(neutral), len(TRIANGLES)], "<i4")
        (home / "Blendshape" / "shape.bs").write_bytes(header.tobytes() + shapes.tobytes())
    (root / "landmark_vertices.txt").write_text("\n".join(str(v) for v in landmark_vertices()) + "\n")


def landmark_vertices() -> list[int]:
    """The vertices next to the 7 landmarks."""
    distance = np.linalg.norm(TEMPLATE.vertices.numpy()[:, None] - seven(TEMPLATE.vertices.double().numpy()), axis=2)
    return distance.argmin(0).tolist()


WRITERS = {"folder": write_folder, "now": write_now, "bu3dfe": write_bu3dfe, "facewarehouse": write_facewarehouse}
PEOPLE = {
    "folder": ["anna", "ben"],
    "now": ["FaMoS_1", "FaMoS_2"],
    "bu3dfe": ["F0001", "M0002"],
    "facewarehouse": ["Tester_1", "Tester_2", "Tester_10"],
}


@pytest.fixture(params=WRITERS)
def scan_set(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A layout's name and a small set in it."""
    root = tmp_path / "set"
    WRITERS[request.param](root)
    return request.param, root


def test_every_layout_is_recognised_and_read_in_millimetres(scan_set):
    layout, root = scan_set
    people, incomplete = read_scans(root)
    assert (people, {}) == read_scans(root, layout) and incomplete == {}
    assert [person.name for person in people] == PEOPLE[layout]
    assert all(person.layout == layout and person.photos for person in people)
    number = 1 if layout == "facewarehouse" else 0
    truth = head(number)
    assert people[0].neutral is not None
    scan = people[0].neutral.read()
    np.testing.assert_allclose(scan.points, truth, atol=1e-3)
    expected = truth[landmark_vertices()] if layout == "facewarehouse" else seven(truth)
    assert scan.numbers == NOW_POINTS
    np.testing.assert_allclose(scan.landmarks, expected, atol=2e-3)
    np.testing.assert_array_equal(scan.landmark(33), scan.landmarks[4])


def test_photos_and_the_scans_of_their_moments(tmp_path):
    expected = {
        "folder": [("one.jpg", None)],
        "now": [("IMG_0001.jpg", None), ("IMG_0001.jpg", None)],  # the list leaves IMG_0002.jpg out
        "bu3dfe": [(f"F0001_{e}WH_F2D.bmp", f"F0001_{e}WH_F3D.wrl") for e in ("AN01", "NE00")],
        "facewarehouse": [("pose_0.png", "pose_0.obj"), ("pose_1.png", "pose_1.obj")],
    }
    for layout, write in WRITERS.items():
        write(tmp_path / layout)
        photos = read_scans(tmp_path / layout)[0][0].photos
        found = [(photo.path.name, photo.scan and photo.scan.path.name) for photo in photos]
        assert found == expected[layout]
    posed = read_scans(tmp_path / "bu3dfe")[0][0].photos[0].scan
    assert posed is not None
    np.testing.assert_allclose(posed.read().points - head(0), TEMPLATE.expressions[0].numpy(), atol=1e-3)


def test_without_its_list_all_of_nows_photos_count(tmp_path):
    write_now(tmp_path)
    (tmp_path / "imagepathsvalidation.txt").unlink()
    assert len(read_scans(tmp_path)[0][0].photos) == 4


def test_a_photo_may_have_its_own_scan_and_the_person_none(tmp_path):
    write_folder(tmp_path)
    home = tmp_path / "anna"
    (home / "scan.ply").rename(home / "one.ply")
    (home / "landmarks.txt").rename(home / "one.txt")
    person = read_scans(tmp_path)[0][0]
    assert person.neutral is None and person.photos[0].scan == ScanFile(home / "one.ply", home / "one.txt", 1.0)


def test_the_jaw_line_is_left_out_of_68_landmarks(tmp_path):
    write_folder(tmp_path)
    marks = TEMPLATE.landmarks(torch.from_numpy(head(0)).float())
    np.savetxt(tmp_path / "anna" / "landmarks.txt", marks, delimiter=",")
    neutral = read_scans(tmp_path)[0][0].neutral
    assert neutral is not None
    scan = neutral.read()
    assert scan.numbers == STEADY_POINTS and min(scan.numbers) == 17 and len(scan.landmarks) == 49
    np.testing.assert_allclose(scan.landmark(30), marks[30], atol=1e-4)


def test_a_stated_unit_is_converted_and_a_wrong_one_noticed(tmp_path):
    write_folder(tmp_path)
    for name in ("anna", "ben"):
        write_mesh(tmp_path / name / "scan.ply", head(0) / 1000, TRIANGLES)
        np.savetxt(tmp_path / name / "landmarks.txt", seven(head(0)) / 1000)
    neutral = read_scans(tmp_path)[0][0].neutral
    assert neutral is not None
    with pytest.raises(ValueError, match=r"landmarks\.txt: the outer eye corners are 0\.0\d+ mm apart.*unit\.txt"):
        neutral.read()
    (tmp_path / "unit.txt").write_text("m\n")
    neutral = read_scans(tmp_path)[0][0].neutral
    assert neutral is not None
    np.testing.assert_allclose(neutral.read().points, head(0), atol=1e-2)
    (tmp_path / "unit.txt").write_text("inch")
    with pytest.raises(ValueError, match="unknown unit 'inch'"):
        read_scans(tmp_path)


@pytest.mark.parametrize(
    ("layout", "remove", "message"),
    [
        ("folder", "ben/landmarks.txt", r"ben.landmarks\.txt \(or \.pp\) is missing"),
        ("folder", "ben/scan.ply", "ben: photos without a scan"),
        ("folder", "ben/one.jpg", "ben: a scan without photos"),
        ("now", "scans_lmks_onlypp/FaMoS_2/natural_head_picked_points.pp", r"FaMoS_2/\*\.pp is missing"),
        ("now", "scans/FaMoS_2/natural_head.obj", r"FaMoS_2/\*\.obj is missing"),
        ("bu3dfe", "F0001/F0001_AN01WH_F3D.bnd", r"AN01WH_F3D\.bnd is missing"),
    ],
)
def test_a_person_with_something_missing_is_named_and_left_out(tmp_path, layout, remove, message):
    WRITERS[layout](tmp_path)
    complete = read_scans(tmp_path)[0]
    (tmp_path / remove).unlink()
    people, incomplete = read_scans(tmp_path)
    ((name, reason),) = incomplete.items()
    assert people == [person for person in complete if person.name != name] and len(people) == len(complete) - 1
    assert name in remove and re.search(message, reason)


def test_a_set_in_which_all_are_incomplete_is_an_error(tmp_path):
    write_folder(tmp_path)
    for name in ("anna", "ben"):
        (tmp_path / name / "landmarks.txt").unlink()
    with pytest.raises(ValueError, match=r"no person .* first reason: .*anna.landmarks\.txt .*is missing"):
        read_scans(tmp_path)


def test_facewarehouses_landmarks_are_needed_once(tmp_path):
    write_facewarehouse(tmp_path)
    (tmp_path / "landmark_vertices.txt").unlink()
    with pytest.raises(ValueError, match=r"landmark_vertices\.txt is missing"):
        read_scans(tmp_path)


def test_folders_that_are_no_scan_set(tmp_path):
    with pytest.raises(ValueError, match="no person"):
        read_scans(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        read_scans(tmp_path / "nothing")
    with pytest.raises(ValueError, match="unknown layout 'faces'; choose auto, folder"):
        read_scans(tmp_path, "faces")
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans_lmks_onlypp").mkdir()
    with pytest.raises(ValueError, match="iphone_pictures"):
        read_scans(tmp_path)


# -------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb"])
def test_meshes_keep_their_vertices_and_their_order(tmp_path, suffix):
    write_mesh(tmp_path / f"scan{suffix}", head(0), TRIANGLES, TEMPLATE.colors, TEMPLATE.uv)
    scale = 1000 if suffix == ".glb" else 1  # GLB is in metres
    np.testing.assert_allclose(scale * read_points(tmp_path / f"scan{suffix}"), head(0), atol=1e-2)


def test_point_clouds_and_vrml_1_are_scans_too(tmp_path):
    points = head(0)[:50]
    np.savetxt(tmp_path / "cloud.obj", np.pad(points, ((0, 0), (0, 4))), fmt="v" + " %.9g" * 7)
    np.testing.assert_allclose(read_points(tmp_path / "cloud.obj"), points, atol=1e-6)
    np.savetxt(tmp_path / "cloud.xyz", points)
    np.testing.assert_allclose(read_points(tmp_path / "cloud.xyz"), points, atol=1e-6)
    rows = ", ".join(" ".join(map(str, row)) for row in points.tolist())
    (tmp_path / "old.wrl").write_text(f"#VRML V1.0 ascii\nSeparator {{ Coordinate3 {{ point [ {rows} ] }} }}")
    np.testing.assert_allclose(read_points(tmp_path / "old.wrl"), points)


def test_bu3dfes_sides_follow_from_the_shape():
    vertices = head(4)
    marks = bu3dfe_landmarks(vertices)
    turn = torch.linalg.matrix_exp(torch.tensor([[0.0, -2, 1], [2, 0, 0.5], [-1, -0.5, 0]]).double()).numpy()
    for order in (np.arange(83), np.r_[8:16, 0:8, 16:83], np.r_[7:-1:-1, 15:7:-1, 16:36, 47:35:-1, 59:47:-1, 60:83]):
        np.testing.assert_allclose(bu3dfe_to_seven(marks[order] @ turn.T), seven(vertices) @ turn.T, atol=1e-3)


def test_letter_case_and_hidden_companions_change_nothing(scan_set):
    layout, root = scan_set
    expected = [len(person.photos) for person in read_scans(root)[0]]
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix not in ("", ".bs")]:
        if path.parent != root:
            path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
            path.rename(path.with_suffix(path.suffix.upper()))
    if layout == "now":
        (root / "imagepathsvalidation.txt").unlink()
        expected = [4, 4]
    people, incomplete = read_scans(root)
    assert incomplete == {} and [len(person.photos) for person in people] == expected
    assert people[0].neutral is not None and people[0].neutral.read().numbers == NOW_POINTS
