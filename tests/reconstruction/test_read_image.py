import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from fmlfast.reconstruction.inputs import check_image, read_focal, read_image


def picture(seed: int, height: int = 70, width: int = 93) -> np.ndarray:
    """A smooth random picture, so that JPEG keeps it within a few grey levels; uint8 [H, W, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_rgb_png_is_read_as_it_is(tmp_path):
    image = picture(0)
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)


def test_grey_becomes_rgb(tmp_path):
    grey = picture(1)[..., 0]
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(grey[..., None], 3, axis=2))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.random.default_rng(2).integers(0, 65536, (71, 64)).astype(np.uint16)
    values[0, :2] = 0, 65535
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8 and image.shape == (71, 64, 3)
    np.testing.assert_array_equal(image[..., 1], np.rint(values / 257.0))


def test_transparency_is_composited_on_white(tmp_path):
    color, alpha = picture(3), picture(4)[..., :1]
    alpha = np.where(alpha > 200, 255, np.where(alpha < 50, 0, alpha)).astype(np.uint8)
    Image.fromarray(np.concatenate([color, alpha], axis=2)).save(tmp_path / "a.png")
    share = alpha / 255.0
    expected = color * share + 255.0 * (1.0 - share)
    assert np.abs(read_image(tmp_path / "a.png") - expected).max() <= 1.0


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray(picture(5)).quantize(16)
    colors = np.asarray(image.convert("RGB"))
    hidden = np.asarray(image) == 3
    image.save(tmp_path / "a.png", transparency=3)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.where(hidden[..., None], 255, colors))


def test_cmyk_jpeg(tmp_path):
    image = picture(6)
    Image.fromarray(image).convert("CMYK").save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - image).mean() < 3.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    upright = picture(7, 66, 91)
    stored = {  # how a camera stores the upright picture under each EXIF orientation
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 3.0


@pytest.mark.parametrize("channels", [3, 4])
def test_embedded_profile_is_converted(tmp_path, channels):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = (
        srgb.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    )  # red and blue primaries
    image = picture(8)
    stored = np.concatenate([image, np.full_like(image[..., :1], 255)], axis=2)[..., :channels]
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=swapped)
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - image[..., ::-1]).max() <= 3
    Image.fromarray(stored).save(tmp_path / "b.png", icc_profile=b"not a profile")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), image)


def test_bad_files_raise_one_error_that_names_them(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(picture(9)).save(whole, "png")
    (tmp_path / "truncated.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    jpeg = io.BytesIO()
    Image.fromarray(picture(9, 300, 300)).save(jpeg, "jpeg")
    (tmp_path / "truncated.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("no image at all")
    Image.fromarray(picture(9, 16, 16)).save(tmp_path / "small.png")
    Image.fromarray(np.full((80, 80), 0.5, np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(np.full((80, 80), 1 << 20, np.int32)).save(tmp_path / "int.tif")
    (tmp_path / "folder").mkdir()
    reasons = {
        "truncated.png": "truncated",
        "truncated.jpg": "truncated",
        "empty.png": "cannot be read",
        "text.jpg": "cannot be read",
        "small.png": "16x16 pixels is too small",
        "float.tif": "floating-point",
        "int.tif": "32-bit",
        "folder": "is a folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_image(tmp_path / "absent.png")


@pytest.mark.parametrize(("told", "focal"), [(26, 26 * 500 / 1872**0.5), (0, None), (None, None), ("26", None)])
def test_the_focal_length_that_a_photo_tells(tmp_path, told, focal):
    exif = Image.Exif()
    if told is not None:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = told
    Image.fromarray(picture(9, 300, 400)).save(tmp_path / "a.jpg", exif=exif)
    assert read_focal(tmp_path / "a.jpg") == (focal and pytest.approx(focal))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_data_tells_nothing(tmp_path):
    Image.fromarray(picture(9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x87\x69\0\x04")
    assert read_focal(tmp_path / "a.jpg") is None
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    assert read_focal(tmp_path / "b.jpg") is None


def sixteen_bit_png(path, values: np.ndarray, transparent: tuple[int, ...]) -> None:
    """Writes 16-bit grey [H, W] or RGB [H, W, 3] with a transparent value, which Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks))


def test_the_transparent_value_of_16_bits_is_composited_on_white(tmp_path):
    grey = np.random.default_rng(8).integers(0, 65536, (70, 66))
    grey[:10], grey[10] = 12345, 12346
    sixteen_bit_png(tmp_path / "a.png", grey, (12345,))
    expected = np.where(grey == 12345, 255, np.rint(grey / 257.0))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(expected[..., None], 3, 2))
    color = np.random.default_rng(9).integers(0, 32768, (70, 66, 3))
    color[:10] = 40000, 300, 12345
    sixteen_bit_png(tmp_path / "b.png", color, (40000, 300, 12345))
    image = read_image(tmp_path / "b.png")
    assert (image[:10] == 255).all() and np.abs(image[10:] - color[10:] / 257.0).max() <= 1


def test_large_photos_are_read_and_larger_ones_said_to_be_large(tmp_path, monkeypatch):
    image = picture(10)
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", image.shape[0] * image.shape[1] - 1)  # Pillow warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
        assert read_focal(tmp_path / "a.png") is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", image.shape[0] * image.shape[1] // 2 - 1)  # Pillow refuses
    with pytest.raises(ValueError, match=r"a\.png is too large to read .* save a smaller copy"):
        read_image(tmp_path / "a.png")


def test_views_of_arrays_become_contiguous():
    image = picture(11)
    for view in (image[:, ::-1], image[::-1], image.transpose(1, 0, 2), image[..., ::-1]):
        checked = check_image(view, "a")
        assert checked.flags.c_contiguous and np.array_equal(checked, view)
