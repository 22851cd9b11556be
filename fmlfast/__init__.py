"""fmlfast: learn a 3D face model from video clips, reconstruct faces, render them differentiably.

The names below load on first use, so `import fmlfast` and `fmlfast --help` do not wait for torch.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "FaceTemplate": "fmlfast.template",
    "FML": "fmlfast.system",
    "Frames": "fmlfast.frames",
    "Codes": "fmlfast.frames",
    "Reconstruction": "fmlfast.reconstruction",
    "reconstruct": "fmlfast.reconstruction",
    "read_image": "fmlfast.images",
    "write_mesh": "fmlfast.export",
    "project": "fmlfast.camera",
    "look_at": "fmlfast.camera",
    "linear_to_srgb": "fmlfast.color",
    "srgb_to_linear": "fmlfast.color",
    "Fragments": "fmlfast.renderer",
    "Rendering": "fmlfast.renderer",
    "rasterize": "fmlfast.renderer",
    "interpolate": "fmlfast.renderer",
    "vertex_normals": "fmlfast.renderer",
    "vertex_visibility": "fmlfast.renderer",
    "sh_basis": "fmlfast.renderer",
    "shade_sh": "fmlfast.renderer",
    "shade_vertices": "fmlfast.renderer",
    "antialias": "fmlfast.renderer",
    "render": "fmlfast.renderer",
    "photometric": "fmlfast.kernels.photometric",
    "photometric_pixels": "fmlfast.kernels.photometric",
}

if TYPE_CHECKING:
    from fmlfast.camera import look_at as look_at
    from fmlfast.camera import project as project
    from fmlfast.color import linear_to_srgb as linear_to_srgb
    from fmlfast.color import srgb_to_linear as srgb_to_linear
    from fmlfast.export import write_mesh as write_mesh
    from fmlfast.frames import Codes as Codes
    from fmlfast.frames import Frames as Frames
    from fmlfast.images import read_image as read_image
    from fmlfast.kernels.photometric import photometric as photometric
    from fmlfast.kernels.photometric import photometric_pixels as photometric_pixels
    from fmlfast.reconstruction import Reconstruction as Reconstruction
    from fmlfast.reconstruction import reconstruct as reconstruct
    from fmlfast.renderer import Fragments as Fragments
    from fmlfast.renderer import Rendering as Rendering
    from fmlfast.renderer import antialias as antialias
    from fmlfast.renderer import interpolate as interpolate
    from fmlfast.renderer import rasterize as rasterize
    from fmlfast.renderer import render as render
    from fmlfast.renderer import sh_basis as sh_basis
    from fmlfast.renderer import shade_sh as shade_sh
    from fmlfast.renderer import shade_vertices as shade_vertices
    from fmlfast.renderer import vertex_normals as vertex_normals
    from fmlfast.renderer import vertex_visibility as vertex_visibility
    from fmlfast.system import FML as FML
    from fmlfast.template import FaceTemplate as FaceTemplate


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
