import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

import fmlfast
from fmlfast.camera import project
from fmlfast.data.face_detector import Face
from fmlfast.reconstruction.pipeline import reconstruct, reconstruct_everyone
from fmlfast.reconstruction.result import Reconstruction
from fmlfast.template.face_template import FaceTemplate
from tests.helpers.photographs import PLACES, FakeDetector, photograph
from tests.helpers.real_media import landmarker, real_media

trimesh = pytest.importorskip("trimesh")


def projected_landmarks(result: Reconstruction) -> torch.Tensor:
    return project(result.template.landmarks(result.camera_vertices), torch.from_numpy(result.Ks))


def test_several_photos_share_one_identity_and_sit_on_their_faces(photos, run):
    result = fmlfast.reconstruct([photos["left"], str(photos["right"])], run, refine=10)
    vertices = len(FaceTemplate.default(2).vertices)
    assert result.names == ("left", "right")
    assert result.neutral.shape == result.reflectance.shape == (vertices, 3)
    assert result.vertices.shape == result.camera_vertices.shape == result.shaded.shape == (2, vertices, 3)
    assert result.codes.identity.shape[0] == 1 and result.codes.rotation.shape[:2] == (1, 2)
    error = (projected_landmarks(result) - torch.from_numpy(result.landmarks)).norm(dim=-1)[:, 17:]
    size = np.ptp(result.landmarks, axis=1).max(-1)
    assert (error.mean(1).numpy() < 0.03 * size).all()  # in the photos' pixels: crop and camera are undone
    expected = result.vertices @ result.codes.rotation[0].mT + result.codes.translation[0, :, None]
    torch.testing.assert_close(result.camera_vertices, expected, atol=1e-2, rtol=0)


def test_the_overlay_is_the_photo_s_face_before_and_after_refinement(photos, run):
    photo = np.asarray(Image.open(photos["left"])).astype(float)
    errors = []
    for steps in (0, 40):
        shown = reconstruct([photos["left"]], run, refine=steps).overlay(0)
        covered = (shown != photo).any(-1)
        errors.append(np.abs(shown - photo)[covered].mean())
    assert max(errors) < 2.0  # of 255; the photo shows the mean face, which the start fits already


@pytest.mark.parametrize("focal", [0.65, 1.5])
def test_the_focal_length_is_estimated_or_read(photos, run, tmp_path, monkeypatch, focal):
    """Two pictures of one camera share its focal length; that of another size has its own; EXIF data is believed."""
    places = {(240, 320): (0.0, 0.0, focal, 0.4), (320, 240): (10.0, 0.1, focal, -0.3), (250, 250): (0.0, 0.0)}
    pictures, faces = [], {}
    for size, place in places.items():
        picture, face = photograph(*size, *place)
        pictures.append(picture)
        faces[size] = [face]
    monkeypatch.setattr(FakeDetector, "faces", faces)
    result = reconstruct(pictures, run, refine=1)
    factors = result.Ks[:, 0, 0] / [1.2 * 320, 1.2 * 320, 1.2 * 250]
    assert result.focal_sources == ("estimated",) * 3
    assert factors[0] == factors[1] == pytest.approx(focal, rel=0.2)
    assert factors[2] == pytest.approx(1.0, rel=0.2)
    np.testing.assert_array_equal(result.Ks[:, 1, 1], result.Ks[:, 0, 0])
    np.testing.assert_array_equal(result.Ks[:, :2, 2], [[160, 120], [120, 160], [125, 125]])
    network = reconstruct(pictures, run, refine=0)
    assert network.focal_sources == ("assumed",) * 3
    np.testing.assert_allclose(network.Ks[:, 0, 0], [1.2 * 320, 1.2 * 320, 1.2 * 250])

    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    Image.fromarray(pictures[0]).save(tmp_path / "told.jpg", quality=97, exif=exif)
    told = reconstruct([tmp_path / "told.jpg", pictures[1]], run, refine=1)
    assert told.focal_sources == ("exif", "estimated")
    assert told.Ks[0, 0, 0] == pytest.approx(28 * 400 / np.hypot(36, 24))
    assert told.Ks[1, 0, 0] / (1.2 * 320) == pytest.approx(focal, rel=0.3)
    stored = json.loads(json.dumps(told.parameters()))["photos"]
    assert [photo["focal_source"] for photo in stored] == ["exif", "estimated"]
    np.testing.assert_allclose([photo["K"] for photo in stored], told.Ks, rtol=1e-6)


def test_arrays_and_files_give_the_same(photos, run):
    image = np.asarray(Image.open(photos["right"]))
    from_array, from_file = reconstruct(image, run, refine=2), reconstruct(str(photos["right"]), run, refine=2)
    assert from_array.names == ("image-0",)
    assert torch.equal(from_array.camera_vertices, from_file.camera_vertices)


def test_a_texture_is_baked_saved_and_shown(photos, run, tmp_path):
    images = [photos["left"], photos["right"]]
    result, plain = (reconstruct(images, run, refine=2, texture=size, topology="own") for size in (128, 0))
    assert result.texture is not None and result.texture_confidence is not None
    assert result.texture.shape == (128, 128, 3) and result.texture_confidence.shape == (128, 128)
    assert plain.texture is None and plain.texture_confidence is None
    result.save(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "texture.png")), result.texture)
    plain.save(tmp_path / "plain")
    assert not (tmp_path / "plain" / "texture.png").exists()
    photo = np.asarray(Image.open(photos["left"])).astype(float)
    shown = [r.overlay(0) for r in (result, plain)]
    covered = (shown[0] != photo).any(-1) & (shown[1] != photo).any(-1)
    errors = [np.abs(picture - photo)[covered].mean() for picture in shown]
    assert errors[0] < 0.95 * errors[1]
    with pytest.raises(
        ValueError, match="side must be a power of two from 64 to 4096 texels, got 10; --texture 0 switches"
    ):
        reconstruct(images, run, texture=10)


def test_equal_file_names_are_numbered(photos, run, tmp_path):
    (tmp_path / "b").mkdir()
    copy = tmp_path / "b" / "left.jpg"
    Image.open(photos["left"]).save(copy, quality=95)
    assert reconstruct([photos["left"], copy], run, refine=0).names == ("left", "left-2")


def test_a_photo_means_the_same_however_it_is_stored(run, tmp_path):
    """With the real detector: RGBA, 16-bit grey and EXIF-rotated copies of a photo give the face at the same place."""
    landmarker()
    photo = Image.open(real_media() / "single_face.jpg").convert("RGB")
    grey = np.asarray(photo.convert("L"))
    photo.save(tmp_path / "plain.png")
    photo.convert("RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.jpg", quality=97, exif=exif)
    assert ImageOps.exif_transpose(Image.open(tmp_path / "turned.jpg")).size == photo.size
    names = ("plain.png", "rgba.png", "grey.png", "sixteen.png", "turned.jpg")
    results = [reconstruct([tmp_path / name], run, refine=0) for name in names]
    size = np.ptp(results[0].landmarks[0], axis=0).max()
    for result in results:
        assert result.photos[0].shape == (photo.height, photo.width, 3)
        difference = np.linalg.norm(result.landmarks - results[0].landmarks, axis=-1)
        assert difference.mean() < 0.02 * size
    np.testing.assert_array_equal(results[1].landmarks, results[0].landmarks)
    np.testing.assert_array_equal(results[3].landmarks, results[2].landmarks)


def test_a_crowd_is_listed_and_one_is_chosen(photos, run, monkeypatch):
    _, face = photograph(*PLACES["left"])
    crowd = []
    for shift in (35, -70, 0):  # not in order
        moved = face.landmarks + np.array([shift, 0], np.float32)
        box = (face.box[0] + shift, face.box[1], face.box[2] + shift, face.box[3])
        crowd.append(Face(moved, face.confidence, box, face.detection.moved(1.0, (shift, 0)), 0.0))
    monkeypatch.setitem(FakeDetector.faces, PLACES["left"][:2], crowd)
    with pytest.raises(ValueError, match="left.png: 3 faces; choose with --face N") as caught:
        reconstruct([photos["left"]], run)
    listed = [f"{i} at x {crowd[j].box[0]:.0f}-{crowd[j].box[2]:.0f}" for i, j in enumerate((1, 2, 0))]
    assert [str(caught.value).index(item) for item in listed] == sorted(
        str(caught.value).index(item) for item in listed
    )
    for number, message in {3: "no face 3; choose", -1: "face must be at least 0, got -1"}.items():
        with pytest.raises(ValueError, match=message):
            reconstruct([photos["left"]], run, face=number)
    chosen = reconstruct([photos["left"]], run, face=2, refine=0)
    np.testing.assert_array_equal(chosen.landmarks[0], crowd[0].landmarks)
    # Among several photos the number is for those with a crowd.
    joint = reconstruct([photos["left"], photos["right"]], run, face=2, refine=0)
    np.testing.assert_array_equal(joint.landmarks[0], crowd[0].landmarks)
    with pytest.raises(ValueError, match="no face 1"):
        reconstruct([photos["right"]], run, face=1)


def test_bad_input_is_one_clear_error(photos, run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (100, 101, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="image 0: no face found"):
        reconstruct([noise], run)
    with pytest.raises(ValueError, match="no images given"):
        reconstruct([], run)
    with pytest.raises(ValueError, match="image 1: an image array must be uint8"):
        reconstruct([noise, noise / 255.0], run)
    with pytest.raises(ValueError, match="image 0 must be a path or a uint8 array .* not Tensor"):
        reconstruct([torch.zeros(3, 50, 50)], run)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="16x16 pixels is too small"):
        reconstruct([noise[:16, :16]], run)
    with pytest.raises(FileNotFoundError, match="absent.png"):
        reconstruct([tmp_path / "absent.png"], run)
    with pytest.raises(ValueError, match="is not a finished run"):
        reconstruct([photos["left"]], tmp_path / "no-run")
    config = json.loads((run / "config.json").read_text())
    config["template"]["fingerprint"] = "0123456789abcdef"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="0123456789abcdef"):
        reconstruct([photos["left"]], run)


def test_a_folder_stands_for_its_photos_in_order(photos, run, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for name, path in (("b.PNG", photos["right"]), ("a.png", photos["left"]), (".hidden.png", photos["left"])):
        (folder / name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("not a photo")
    (folder / "clip.mp4").write_bytes(b"a video is named by itself")
    result = reconstruct(folder, run, refine=0, topology="own", texture=0)
    assert result.names == ("a", "b")
    with pytest.raises(ValueError, match="run: no photos in this folder"):
        reconstruct([folder, run], run)


def test_everyone_in_a_photo_is_a_person_of_its_own(photos, run, monkeypatch):
    _, face = photograph(*PLACES["left"])
    crowd = []
    for shift in (35, -70):
        moved = face.landmarks + np.array([shift, 0], np.float32)
        box = (face.box[0] + shift, face.box[1], face.box[2] + shift, face.box[3])
        crowd.append(Face(moved, face.confidence, box, face.detection.moved(1.0, (shift, 0)), 0.0))
    monkeypatch.setitem(FakeDetector.faces, PLACES["left"][:2], crowd)
    settings: dict[str, Any] = {"refine": 1, "texture": 0, "topology": "own"}
    everyone = list(reconstruct_everyone(photos["left"], run, **settings))
    for number, result in enumerate(everyone):
        np.testing.assert_array_equal(result.landmarks[0], crowd[1 - number].landmarks)
        alone = reconstruct(photos["left"], run, face=number, **settings)
        assert torch.equal(result.neutral, alone.neutral)
    assert len(everyone) == 2
    with pytest.raises(ValueError, match="a.mp4: --face all takes a photo"):
        (photos["left"].parent / "a.mp4").write_bytes(b"")
        next(reconstruct_everyone(photos["left"].parent / "a.mp4", run))
