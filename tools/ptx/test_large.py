# SPDX-License-Identifier: Apache-2.0
"""Kernels that go frame by frame, at tensors of more than 2^31 elements; runs with the emulator's plugin."""
# Launch options are unknown to it.
# pyright: reportCallIssue=false, reportIndexIssue=false, reportArgumentType=false

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.normals import vertex_normals
from fmlfast.kernels.photometric import photometric
from fmlfast.kernels.photometric_pixels import photometric_pixels
from fmlfast.kernels.rasterize import Fragments, rasterize
from fmlfast.kernels.shading import shade_sh, shade_vertices
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.kernels.texture import texture
from fmlfast.kernels.visibility import vertex_visibility
from tools.ptx import driver, sample_kernels
from tools.ptx.driver import Schedule, settings
from tools.ptx.large import BATCH, Enlarged

F, V, H, W = BATCH, 1005, 31, 33
assert V % BATCH and V // 3 % BATCH and (V + 1) % BATCH  # or they would be taken for frames


@pytest.fixture
def enlarged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Enlarged]:
    found = Enlarged()
    monkeypatch.setattr(settings, "schedules", [Schedule(races=False)])
    monkeypatch.setattr(settings, "on_launch", found)
    yield found


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Vertices, triangles and cameras: triangles of a few pixels, and larger ones."""
    g = torch.Generator().manual_seed(0)
    centers = (torch.rand(F, V // 3, 1, 3, generator=g) - 0.5) * 2 + torch.tensor([0, 0, 2.5])
    corners = centers + (torch.rand(F, V // 3, 3, 3, generator=g) - 0.5) * 0.4
    Ks = torch.tensor([[30.0, 0, 16], [0, 30, 15], [0, 0, 1]]).repeat(F, 1, 1)
    return corners.reshape(F, V, 3).contiguous(), torch.arange(V, dtype=torch.int32).view(-1, 3), Ks


def seen(vertices: Tensor, triangles: Tensor, Ks: Tensor) -> Fragments:
    return rasterize(vertices, triangles, Ks, H, W, near=1e-2, derivatives=True, backend="torch")


def differentiate(*outs: Tensor | None) -> None:
    torch.stack([o.where(o.isfinite(), 0).square().sum() for o in outs if o is not None]).sum().backward()


def draw() -> None:
    vertices, triangles, Ks = scene()
    drawn = rasterize(vertices.requires_grad_(), triangles, Ks, H, W, near=1e-2, derivatives=True, backend="triton")
    differentiate(drawn.barycentrics, drawn.depth, drawn.derivatives)


def blend() -> None:
    for channels in (1, 3, 5):
        vertices, triangles, Ks = scene()
        image = torch.rand(F, H, W, channels)
        fragments = seen(vertices, triangles, Ks)
        leaves = image.requires_grad_(), vertices.requires_grad_()
        differentiate(antialias(*leaves, triangles, Ks, fragments, "triton"))


def interpolated() -> None:
    vertices, triangles, Ks = scene()
    fragments = seen(vertices, triangles, Ks)
    for channels in (1, 3, 5):
        values, weights = torch.randn(F, V, channels).requires_grad_(), fragments.barycentrics.clone().requires_grad_()
        differentiate(interpolate(values, triangles, replace(fragments, barycentrics=weights), "triton"))
    assert fragments.derivatives is not None
    slopes = fragments.derivatives.clone().requires_grad_()
    differentiate(interpolate_derivatives(values, triangles, replace(fragments, derivatives=slopes), backend="triton"))


def look_up() -> None:
    texels, uv = torch.rand(F, 32, 32, 3).requires_grad_(), torch.rand(F, H, W, 2).requires_grad_()
    mips = [torch.rand(F, 32 >> level, 32 >> level, 3).requires_grad_() for level in range(1, 6)]
    slopes, bias = (torch.rand(F, H, W, 4) / 8).requires_grad_(), torch.rand(F, H, W).requires_grad_()
    differentiate(texture(texels, uv, slopes, bias, mips, backend="triton"), texture(texels, uv, backend="triton"))


def shade() -> None:
    vertices, triangles, _ = scene()
    differentiate(vertex_normals(vertices.requires_grad_(), triangles, "triton"))
    for frames in (1, 2):
        points = vertices.detach().repeat(frames, 1, 1).requires_grad_()
        reflectance, sh = torch.rand(F, V, 3).requires_grad_(), torch.randn(F * frames, 9, 3).requires_grad_()
        differentiate(*shade_vertices(points, triangles, reflectance, sh, "triton"))
        differentiate(shade_sh(reflectance, points, sh, "triton"))


def lose() -> None:
    vertices, _, Ks = scene()
    images, colors, weights = torch.rand(F, 3, H, W), torch.rand(F, V, 3).requires_grad_(), torch.rand(F, V)
    leaf = vertices.clone().requires_grad_()
    differentiate(photometric(images, leaf, Ks, colors, weights, "geman", "triton")[0])
    rendered, pictures = torch.rand(F, H, W, 3).requires_grad_(), torch.rand(F, H, W, 3)
    differentiate(photometric_pixels(rendered, pictures, torch.rand(F, H, W), "charbonnier", "triton"))
    chroma, known = chromaticity(torch.rand(F, 2, V, 3), torch.rand(F, 2, V), "triton")
    differentiate(sparsity(colors, chroma, known, torch.randint(0, V, (900, 2)), backend="triton"))


def hide() -> None:
    vertices, triangles, Ks = scene()
    vertex_visibility(vertices, torch.randn(F, V, 3), Ks, seen(vertices, triangles, Ks).depth, "triton")


@pytest.mark.parametrize(
    "run, kernels",
    [
        (draw, "rasterize_project rasterize_micro rasterize_tile rasterize_resolve rasterize_bwd"),
        (blend, "antialias_find antialias_blend antialias_bwd"),
        (
            interpolated,
            "interpolate_fwd interpolate_peak interpolate_bwd interpolate_derivatives_fwd "
            "interpolate_derivatives_peak interpolate_derivatives_bwd",
        ),
        (look_up, "texture_fwd texture_bwd"),
        (shade, "vertex_normals_fwd area_vectors_bwd shade_vertices_fwd shade_sh_fwd shade_bwd"),
        (lose, "photometric_fwd photometric_bwd photometric_pixels_fwd chromaticity_fwd sparsity_fwd"),
        (hide, "vertex_visibility_fwd"),
    ],
    ids=["rasterize", "antialias", "interpolate", "texture", "shading", "losses", "visibility"],
)
def test_addresses_beyond_32_bits(run: Callable[[], None], kernels: str, enlarged: Enlarged) -> None:
    run()
    assert {name.removesuffix("_kernel") for name in enlarged.launches} == set(kernels.split())


def test_addresses_that_wrap_round_are_found(enlarged: Enlarged) -> None:
    x = torch.rand(BATCH, 1024)
    for wide in (True, False):
        sample_kernels.frames_kernel[(BATCH,)](x, torch.zeros_like(x), WIDE=wide, BLOCK=1024)
        found = {finding.type for finding in driver.findings}
        driver.clear()
        assert enlarged.launches["frames_kernel"] and bool(found) != wide
