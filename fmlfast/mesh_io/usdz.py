"""Writes scenes as USDZ, by the usd-core package of the extra `usd`."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmlfast.common.atomic import atomic_path
from fmlfast.common.extras import require
from fmlfast.mesh_io.glb import POSITION_TOLERANCE, ROUGHNESS
from fmlfast.mesh_io.scene import Node, Scene, quaternions, sparse_rows

USUAL_RATE = 30.0  # time codes a second of a single frame
TEXTURE = "base_color.png"


def write_usdz(path: Path, scene: Scene) -> None:
    """Writes a scene; metres, +y up.

    The root is a UsdSkel root with one skeleton, whose joints are the root and the nodes that have a pivot. Morph
    targets are blend shapes of the meshes that they move.

    Raises ImportError, naming the extra, without usd-core.
    """
    utils = require("pxr.UsdUtils", "usd")
    with atomic_path(path) as temporary:
        layer = temporary.with_suffix(".usdc")
        if scene.texture is not None:
            Image.fromarray(scene.texture).save(layer.with_name(TEXTURE))
        _Stage(layer, scene).write()
        if not utils.CreateNewARKitUsdzPackage(str(layer), str(temporary)):
            raise OSError(f"{path}: usd-core could not pack the file")


class _Stage:
    """A USD layer with a scene in it."""

    def __init__(self, layer: Path, scene: Scene) -> None:
        names = ("Gf", "Kind", "Sdf", "Tf", "Usd", "UsdGeom", "UsdShade", "UsdSkel", "Vt")
        self.gf, self.kind, self.sdf, self.tf, self.usd, self.geom, self.shade, self.skel, self.vt = (
            require(f"pxr.{name}", "usd") for name in names
        )
        self.scene = scene
        self.stage = self.usd.Stage.CreateNew(str(layer))
        self.top = self.sdf.Path(f"/{self._identifier(scene.name)}")
        self.jointed = [node for node in scene.nodes if any(node.pivot)]

    def write(self) -> None:
        """Adds everything and saves the layer."""
        self.geom.SetStageUpAxis(self.stage, self.geom.Tokens.y)
        self.geom.SetStageMetersPerUnit(self.stage, 1.0)
        root = self.skel.Root.Define(self.stage, self.top)
        self.usd.ModelAPI(root).SetKind(self.kind.Tokens.component)
        self.stage.SetDefaultPrim(root.GetPrim())
        points = np.concatenate([node.mesh.points for node in self.scene.nodes])
        root.CreateExtentAttr([tuple(map(float, points.min(0))), tuple(map(float, points.max(0)))])
        self._add_skeleton()
        material = self._add_material()
        for node in self.scene.nodes:
            self._add_blend_shapes(node, self._add_mesh(node, material))
        self.stage.GetRootLayer().Save()

    def _add_skeleton(self) -> None:
        """Adds one joint for the root and one for each node with a pivot, and what moves them and the weights."""
        skel, vt, gf = self.skel, self.vt, self.gf
        root = self._identifier(self.scene.name)
        names = [root, *(f"{root}/{self._identifier(node.name)}" for node in self.jointed)]
        pivots = [(0.0, 0.0, 0.0), *(node.pivot for node in self.jointed)]
        places = vt.Matrix4dArray([gf.Matrix4d().SetTranslate(gf.Vec3d(*pivot)) for pivot in pivots])
        skeleton = skel.Skeleton.Define(self.stage, self._path("skeleton"))
        skeleton.CreateJointsAttr(names)
        skeleton.CreateBindTransformsAttr(places)
        skeleton.CreateRestTransformsAttr(places)
        motion = skel.Animation.Define(self.stage, skeleton.GetPath().AppendChild("motion"))
        motion.CreateJointsAttr(names)
        motion.CreateBlendShapesAttr(list(self.scene.morph_names))
        motion.CreateScalesAttr(vt.Vec3hArray([gf.Vec3h(1, 1, 1)] * len(names)))
        source = skel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel()
        source.SetTargets([motion.GetPath()])
        self._move(motion, pivots)

    def _move(self, motion: Any, pivots: list[tuple[float, float, float]]) -> None:
        """Sets joints and weights to rest, or to the animation over time."""
        vt, gf, moved = self.vt, self.gf, self.scene.animation
        translations, rotations = motion.CreateTranslationsAttr(), motion.CreateRotationsAttr()
        weights = motion.CreateBlendShapeWeightsAttr()
        if moved is None:
            translations.Set(vt.Vec3fArray([gf.Vec3f(*pivot) for pivot in pivots]))
            rotations.Set(vt.QuatfArray([gf.Quatf(1)] * len(pivots)))
            weights.Set(vt.FloatArray([0.0] * len(self.scene.morph_names)))
            return
        rate = USUAL_RATE if len(moved.times) == 1 else max(1.0, float(round(1 / np.median(np.diff(moved.times)))))
        turns = [quaternions(moved.turns[node.name]) for node in self.jointed]
        quats = np.stack([quaternions(moved.rotation), *turns], 1).astype(float)  # [T, joints, 4]
        for time, place, turn, weight in zip(moved.times, moved.translation, quats, moved.weights, strict=True):
            code = float(time) * rate
            translations.Set(vt.Vec3fArray([gf.Vec3f(*place.tolist()), *(gf.Vec3f(*p) for p in pivots[1:])]), code)
            rotations.Set(vt.QuatfArray([gf.Quatf(w, x, y, z) for x, y, z, w in turn.tolist()]), code)
            weights.Set(vt.FloatArray(weight.tolist()), code)
        self.stage.SetTimeCodesPerSecond(rate)
        self.stage.SetFramesPerSecond(rate)
        self.stage.SetStartTimeCode(float(moved.times[0]) * rate)
        self.stage.SetEndTimeCode(float(moved.times[-1]) * rate)

    def _add_mesh(self, node: Node, material: Any) -> Any:
        """Adds a mesh that follows its joint as a whole, and returns its prim."""
        geom, mesh = self.geom, node.mesh
        item = geom.Mesh.Define(self.stage, self._path(node.name))
        item.CreatePointsAttr(self._vectors(mesh.points))
        item.CreateFaceVertexCountsAttr(self.vt.IntArray([3] * len(mesh.triangles)))
        item.CreateFaceVertexIndicesAttr(self._integers(mesh.triangles.ravel()))
        item.CreateNormalsAttr(self._vectors(mesh.normals))
        item.SetNormalsInterpolation(geom.Tokens.vertex)
        item.CreateSubdivisionSchemeAttr(geom.Tokens.none)
        item.CreateDoubleSidedAttr(node.double_sided)
        item.CreateExtentAttr(geom.PointBased.ComputeExtent(item.GetPointsAttr().Get()))
        if mesh.uv is not None:
            kind = self.sdf.ValueTypeNames.TexCoord2fArray
            place = geom.PrimvarsAPI(item).CreatePrimvar("st", kind, geom.Tokens.vertex)
            place.Set(self.vt.Vec2fArray.FromNumpy(mesh.uv))
        if mesh.colors is not None:
            item.CreateDisplayColorPrimvar(geom.Tokens.vertex).Set(self._vectors(mesh.colors))
        self.shade.MaterialBindingAPI.Apply(item.GetPrim()).Bind(material)
        binding = self.skel.BindingAPI.Apply(item.GetPrim())
        binding.CreateSkeletonRel().SetTargets([self._path("skeleton")])
        binding.CreateJointIndicesPrimvar(True, 1).Set([self.jointed.index(node) + 1 if node in self.jointed else 0])
        binding.CreateJointWeightsPrimvar(True, 1).Set([1.0])
        return item.GetPrim()

    def _add_blend_shapes(self, node: Node, prim: Any) -> None:
        if node.displacements is None or node.normal_changes is None:
            return
        names, targets = [], []
        shapes = zip(self.scene.morph_names, node.displacements, node.normal_changes, strict=True)
        for name, moved, turned in shapes:
            rows = sparse_rows(moved, POSITION_TOLERANCE)
            if not len(rows):
                continue
            path = prim.GetPath().AppendChild(self._identifier(name))
            while self.stage.GetPrimAtPath(path):  # names that differ in characters that USD does not allow
                path = path.ReplaceName(path.name + "_")
            shape = self.skel.BlendShape.Define(self.stage, path)
            shape.CreateOffsetsAttr(self._vectors(moved[rows]))
            shape.CreateNormalOffsetsAttr(self._vectors(turned[rows]))
            shape.CreatePointIndicesAttr(self._integers(rows))
            names.append(name)
            targets.append(shape.GetPath())
        binding = self.skel.BindingAPI(prim)
        binding.CreateBlendShapesAttr(names)
        binding.CreateBlendShapeTargetsRel().SetTargets(targets)

    def _add_material(self) -> Any:
        """Adds a UsdPreviewSurface that shows the texture, or the colours of the vertices without one."""
        types = self.sdf.ValueTypeNames
        material = self.shade.Material.Define(self.stage, self._path("material"))

        def shader(name: str, kind: str) -> Any:
            item = self.shade.Shader.Define(self.stage, material.GetPath().AppendChild(name))
            item.CreateIdAttr(kind)
            return item

        if self.scene.texture is None:
            source = shader("colors", "UsdPrimvarReader_float3")
            source.CreateInput("varname", types.String).Set("displayColor")
            color = source.CreateOutput("result", types.Float3)
        else:
            place = shader("place", "UsdPrimvarReader_float2")
            place.CreateInput("varname", types.String).Set("st")
            source = shader("texture", "UsdUVTexture")
            source.CreateInput("file", types.Asset).Set(TEXTURE)
            source.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
            source.CreateInput("wrapS", types.Token).Set("clamp")
            source.CreateInput("wrapT", types.Token).Set("clamp")
            source.CreateInput("st", types.Float2).ConnectToSource(place.CreateOutput("result", types.Float2))
            color = source.CreateOutput("rgb", types.Float3)
        surface = shader("surface", "UsdPreviewSurface")
        surface.CreateInput("roughness", types.Float).Set(ROUGHNESS)
        surface.CreateInput("metallic", types.Float).Set(0.0)
        shown = "emissiveColor" if self.scene.unlit else "diffuseColor"
        surface.CreateInput(shown, types.Color3f).ConnectToSource(color)
        if self.scene.unlit:  # nothing else may add light
            surface.CreateInput("diffuseColor", types.Color3f).Set((0.0, 0.0, 0.0))
            surface.CreateInput("useSpecularWorkflow", types.Int).Set(1)
            surface.CreateInput("specularColor", types.Color3f).Set((0.0, 0.0, 0.0))
        material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
        return material

    def _path(self, name: str) -> Any:
        return self.top.AppendChild(self._identifier(name))

    def _identifier(self, name: str) -> str:
        return self.tf.MakeValidIdentifier(name)

    def _vectors(self, array: NDArray[np.float32]) -> Any:
        return self.vt.Vec3fArray.FromNumpy(np.ascontiguousarray(array))

    def _integers(self, array: NDArray[np.integer]) -> Any:
        return self.vt.IntArray.FromNumpy(np.ascontiguousarray(array, np.int32))
