"""Light that is fitted to an image: what hides or outshines the skin decides neither light nor skin."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.camera import project
from fmlfast.color import linear_to_srgb
from fmlfast.data.frames import Frames
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.model.lighting import fit_light, light_weights
from fmlfast.renderer import render, shade_vertices
from fmlfast.template.face_template import FaceTemplate


def pictured(model: FML, frames: Frames, codes: Codes) -> Frames:
    """The frames with the model's own pictures for `codes`."""
    triangles, size = model.template.triangles, frames.images.shape[-1]
    camera, Ks = model.camera_vertices(codes).flatten(0, 1), frames.Ks.flatten(0, 1)
    colors, _ = shade_vertices(camera, triangles, model.face.occluded(model.reflectance(codes)), codes.sh.flatten(0, 1))
    picture = render(camera, triangles, colors, torch.eye(4).expand(len(Ks), 4, 4), Ks, size, size).image
    images = linear_to_srgb(picture.clamp(0, 1)).movedim(-1, 1).contiguous().view(frames.images.shape)
    return replace(frames, images=images)


def plain(model: FML, frames: Frames) -> Codes:
    """Codes of an encoder that knows nothing, with soft light from the side."""
    codes = model.encode(frames).map(torch.detach)
    sh = torch.zeros_like(codes.sh)
    sh[:, :, 0], sh[:, :, 1], sh[:, :, 3] = 0.6, 0.1, -0.15
    return replace(codes, sh=sh)


def face_light(model: FML, frames: Frames, codes: Codes) -> Tensor:  # [F, 3]
    """The mean shading over the face that the model fits to the frames."""
    found = model.fit_light(frames, codes)
    white = replace(model.template, colors=torch.ones_like(model.template.colors)).colors
    camera = model.camera_vertices(codes).flatten(0, 1)
    shade, _ = shade_vertices(camera, model.template.triangles, white[None], found.sh.flatten(0, 1))
    face = model.template.regions["face"]
    return (face[:, None] * shade).sum(1) / face.sum()


def painted(model: FML, frames: Frames, codes: Codes, points: slice, reach: float, color: float) -> Frames:
    """The frames with a rectangle of one grey over the landmarks `points`, `reach` px wider on all sides."""
    images, size = frames.images.clone(), frames.images.shape[-1]
    camera = model.camera_vertices(codes).flatten(0, 1)
    marks = project(model.template.landmarks(camera)[:, points], frames.Ks.flatten(0, 1)).view(
        *codes.sh.shape[:2], -1, 2
    )
    rows = torch.arange(size) + 0.5
    for subject in range(len(images)):
        for frame in range(images.shape[1]):
            low, high = marks[subject, frame].amin(0) - reach, marks[subject, frame].amax(0) + reach
            inside = [(rows > low[axis]) & (rows < high[axis]) for axis in (0, 1)]
            images[subject, frame][:, inside[1][:, None] & inside[0][None]] = color
    return replace(frames, images=images)


@torch.no_grad()
@pytest.mark.parametrize(
    ("place", "reach", "color"),
    [(slice(36, 48), 4.0, 0.05), (slice(27, 31), 1.5, 1.0)],
    ids=["sunglasses", "highlight"],
)
def test_what_is_not_skin_does_not_change_the_light(
    model: FML, frames: Frames, place: slice, reach: float, color: float
) -> None:
    codes = plain(model, frames)
    shown = pictured(model, frames, codes)
    clean = face_light(model, shown, codes)
    found = face_light(model, painted(model, shown, codes, place, reach, color), codes)
    assert ((found / clean).log().abs() < 0.1).all()


def test_neither_exposure_nor_skin_tone_counts() -> None:
    noise = torch.Generator().manual_seed(2)
    normals = torch.nn.functional.normalize(torch.randn(3, 400, 3, generator=noise), dim=-1)
    reflectance = 0.2 + 0.3 * torch.rand(3, 400, 3, generator=noise)
    colors = reflectance * (0.5 + 0.2 * normals[..., :1]) * (0.3 + torch.rand(3, 400, 1, generator=noise))
    weights = torch.rand(3, 400, generator=noise)
    found = fit_light(colors, reflectance, normals, weights)
    torch.testing.assert_close(fit_light(0.3 * colors, reflectance, normals, weights), 0.3 * found)
    tone = torch.tensor([0.3, 0.2, 0.15])
    torch.testing.assert_close(
        fit_light(colors, tone * reflectance, normals, weights), found / tone, rtol=1e-4, atol=1e-5
    )


def test_the_same_area_weighs_the_same_wherever_the_mesh_is_dense() -> None:
    mesh = FaceTemplate.default(0)
    weights, area = light_weights(mesh), mesh.vertex_areas
    triangles = mesh.vertices[mesh.triangles.long()]
    edges = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    torch.testing.assert_close(area.sum(), torch.linalg.cross(*edges).norm(dim=1).sum() / 2)
    cheeks = (mesh.regions["face"] > 0.9) & (mesh.vertices[:, 1].abs() < 15) & (mesh.regions["lids"] == 0)
    cheeks &= weights < weights.max()  # below the largest weight
    ratio = weights[cheeks] / area[cheeks]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert (weights / area)[mesh.regions["eyes"] > 0.9].max() < 0.25 * ratio.mean()
