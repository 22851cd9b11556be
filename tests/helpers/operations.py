"""Every public operation with good arguments."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fmlfast import camera, renderer
from fmlfast.kernels.blendshape import linear_decode, pad_columns
from fmlfast.kernels.deform import deform, skin_displacements
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.photometric import photometric, sample_bilinear
from fmlfast.kernels.photometric_pixels import photometric_pixels
from fmlfast.kernels.sparsity import chromaticity, sparsity
from fmlfast.renderer import rasterize

F, V, H, W = 2, 5, 6, 7
SIZE = {"height": H, "width": W}
Call = tuple[Callable, dict[str, Any]]


def calls() -> dict[str, Call]:
    """Each operation with good arguments."""
    g = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=g)  # noqa: E731
    eyes = torch.tensor([[0.0, 0, 500], [100, 50, 400]])
    viewmats = camera.look_at(eyes, torch.zeros(F, 3))
    Ks = torch.tensor([[9.0, 0, W / 2], [0, 9, H / 2], [0, 0, 1]]).repeat(F, 1, 1)
    cameras = {"viewmats": viewmats, "Ks": Ks}
    mesh = {
        "vertices": rand(F, V, 3) * 60 - torch.tensor([30.0, 30, -100]),
        "triangles": torch.tensor([[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
    }
    seen = {**mesh, "Ks": Ks}
    fragments, points = rasterize(mesh["vertices"], mesh["triangles"], Ks, H, W), mesh["vertices"]
    colors, normals, sh, image = rand(F, V, 3), rand(F, V, 3), rand(F, 9, 3), rand(F, H, W, 3)
    images, weights, depth = rand(F, 3, H, W), rand(F, V), rand(F, H, W)
    skin = {"skin_indices": torch.zeros(V, 8, dtype=torch.int64), "skin_weights": rand(V, 8)}
    skin = {"displacements": rand(F, 4, 3), **skin}
    pose = {"delta": rand(F, 2, 3), "rotation": rand(F, 2, 3, 3), "translation": rand(F, 2, 3)}
    modelviews, projections = camera.to_opengl(viewmats, Ks, H, W, 1.0, 9.0)
    ndc = dict(zip(("R", "T", "focal_length", "principal_point"), camera.to_pytorch3d(viewmats, Ks, H, W), strict=True))
    planes = {"near": 1.0, "far": 9.0}
    return {
        "rasterize": (rasterize, {**seen, **SIZE, "near": 1.0}),
        "interpolate": (renderer.interpolate, {"attributes": colors, **mesh, "fragments": fragments}),
        "interpolate_derivatives": (
            renderer.interpolate_derivatives,
            {"attributes": colors, **mesh, "fragments": replace(fragments, derivatives=rand(F, H, W, 4))},
        ),
        "texture": (
            renderer.texture,
            {"texels": rand(F, 4, 8, 3), "uv": rand(F, H, W, 2), "uv_da": rand(F, H, W, 4), "mip_level_bias": depth},
        ),
        "texture_mips": (renderer.texture_mips, {"texels": rand(F, 4, 8, 3)}),
        "antialias": (renderer.antialias, {"image": image, **seen, "fragments": fragments}),
        "vertex_normals": (renderer.vertex_normals, mesh),
        "sh_basis": (renderer.sh_basis, {"normals": normals}),
        "shade_sh": (renderer.shade_sh, {"reflectance": colors, "normals": normals, "sh": sh}),
        "shade_vertices": (renderer.shade_vertices, {**mesh, "reflectance": colors, "sh": sh}),
        "vertex_visibility": (renderer.vertex_visibility, {**seen, "normals": normals, "depth": depth}),
        "render": (
            renderer.render,
            {**mesh, "colors": colors, **cameras, **SIZE, "background": rand(3), "supersample": 1, "near": 1.0},
        ),
        "photometric": (photometric, {**seen, "colors": colors, "weights": weights, "images": images}),
        "photometric_pixels": (photometric_pixels, {"rendered": image, "images": image, "weights": depth}),
        "sample_bilinear": (sample_bilinear, {"images": images, "uv": rand(F, V, 2)}),
        "linear_decode": (linear_decode, {"codes": rand(F, 2), "basis": rand(2, 16), "mean": rand(16)}),
        "pad_columns": (pad_columns, {"basis": rand(2, 16), "multiple": 16}),
        "skin_displacements": (skin_displacements, skin),
        "deform": (deform, {"mean": rand(V, 3), **skin, "expressions": rand(3, V, 3), **pose}),
        "chromaticity": (chromaticity, {"colors": rand(F, 2, V, 3), "weights": rand(F, 2, V)}),
        "deviation": (deviation, {"values": colors, "mean": rand(V, 3)}),
        "sparsity": (
            sparsity,
            {
                "reflectance": colors,
                "chroma": rand(F, V, 2),
                "known": weights > 0.5,
                "edges": torch.tensor([[0, 1], [1, 2]]),
            },
        ),
        "project": (camera.project, {"points": points, "Ks": Ks}),
        "distort": (camera.distort, {"points": points, "coefficients": 0.1 * rand(F, 5)}),
        "undistort": (camera.undistort, {"points": points, "coefficients": 0.1 * rand(F, 5)}),
        "to_camera": (camera.to_camera, {"points": points, "viewmats": viewmats}),
        "look_at": (camera.look_at, {"eyes": eyes, "targets": 0 * eyes}),
        "to_opengl": (camera.to_opengl, {**cameras, **SIZE, **planes}),
        "from_opengl": (camera.from_opengl, {"modelviews": modelviews, "projections": projections, **SIZE}),
        "to_pytorch3d": (camera.to_pytorch3d, {**cameras, **SIZE}),
        "from_pytorch3d": (camera.from_pytorch3d, {**ndc, **SIZE}),
        "to_nvdiffrast": (camera.to_nvdiffrast, {"points": points, "Ks": Ks, **SIZE, **planes}),
        "from_nvdiffrast": (camera.from_nvdiffrast, {"clip": rand(F, V, 4), "Ks": Ks, **SIZE}),
    }


CALLS = {
    name: (op, {k: v for k, v in good.items() if k in inspect.signature(op).parameters})
    for name, (op, good) in calls().items()
}
