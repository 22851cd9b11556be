"""Learns a 3D face model from video clips, reconstructs faces and renders them differentiably.

The names below load on first use, so `import fmlfast` and `fmlfast --help` do not wait for torch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from fmlfast.common.version import __version__ as __version__

_HOME = {
    "FaceTemplate": "fmlfast.template.face_template",
    "FML": "fmlfast.model.fml",
    "Frames": "fmlfast.data.frames",
    "Codes": "fmlfast.model.codes",
    "Reconstruction": "fmlfast.reconstruction.result",
    "reconstruct": "fmlfast.reconstruction.pipeline",
    "track": "fmlfast.reconstruction.track.run",
    "TrackedPerson": "fmlfast.reconstruction.track.tracked",
    "read_image": "fmlfast.reconstruction.inputs",
    "write_mesh": "fmlfast.mesh_io",
    "project": "fmlfast.camera",
    "look_at": "fmlfast.camera",
    "linear_to_srgb": "fmlfast.color",
    "srgb_to_linear": "fmlfast.color",
    "Fragments": "fmlfast.renderer",
    "Rendering": "fmlfast.renderer",
    "rasterize": "fmlfast.renderer",
    "interpolate": "fmlfast.renderer",
    "interpolate_derivatives": "fmlfast.renderer",
    "vertex_normals": "fmlfast.renderer",
    "vertex_visibility": "fmlfast.renderer",
    "sh_basis": "fmlfast.renderer",
    "shade_sh": "fmlfast.renderer",
    "shade_vertices": "fmlfast.renderer",
    "antialias": "fmlfast.renderer",
    "texture": "fmlfast.renderer",
    "texture_mips": "fmlfast.renderer",
    "render": "fmlfast.renderer",
    "photometric": "fmlfast.kernels.photometric",
    "photometric_pixels": "fmlfast.kernels.photometric_pixels",
}

if TYPE_CHECKING:
    from fmlfast.camera import look_at as look_at
    from fmlfast.camera import project as project
    from fmlfast.color import linear_to_srgb as linear_to_srgb
    from fmlfast.color import srgb_to_linear as srgb_to_linear
    from fmlfast.data.frames import Frames as Frames
    from fmlfast.kernels.photometric import photometric as photometric
    from fmlfast.kernels.photometric_pixels import photometric_pixels as photometric_pixels
    from fmlfast.mesh_io import write_mesh as write_mesh
    from fmlfast.model.codes import Codes as Codes
    from fmlfast.model.fml import FML as FML
    from fmlfast.reconstruction.inputs import read_image as read_image
    from fmlfast.reconstruction.pipeline import reconstruct as reconstruct
    from fmlfast.reconstruction.result import Reconstruction as Reconstruction
    from fmlfast.reconstruction.track.run import track as track
    from fmlfast.reconstruction.track.tracked import TrackedPerson as TrackedPerson
    from fmlfast.renderer import Fragments as Fragments
    from fmlfast.renderer import Rendering as Rendering
    from fmlfast.renderer import antialias as antialias
    from fmlfast.renderer import interpolate as interpolate
    from fmlfast.renderer import interpolate_derivatives as interpolate_derivatives
    from fmlfast.renderer import rasterize as rasterize
    from fmlfast.renderer import render as render
    from fmlfast.renderer import sh_basis as sh_basis
    from fmlfast.renderer import shade_sh as shade_sh
    from fmlfast.renderer import shade_vertices as shade_vertices
    from fmlfast.renderer import texture as texture
    from fmlfast.renderer import texture_mips as texture_mips
    from fmlfast.renderer import vertex_normals as vertex_normals
    from fmlfast.renderer import vertex_visibility as vertex_visibility
    from fmlfast.template.face_template import FaceTemplate as FaceTemplate


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif importlib.util.find_spec(f"fmlfast.{name}"):
        value = importlib.import_module(f"fmlfast.{name}")
    else:
        raise AttributeError(f"module 'fmlfast' has no attribute '{name}'")
    globals()[name] = value  # later look-ups find it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
