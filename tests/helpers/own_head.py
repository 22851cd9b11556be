"""Writes the shipped template as the folder of a user's own head."""

from pathlib import Path

from fmlfast.mesh_io import write_mesh
from fmlfast.template.face_template import FaceTemplate


def write_own_head(folder: Path) -> Path:
    """Writes a template folder in millimetres: three expressions, no surface points."""
    template = FaceTemplate.default(0)
    folder.mkdir()
    write_mesh(folder / "neutral.obj", template.vertices, template.triangles, template.colors)
    for name in ("jawOpen", "mouthSmileLeft", "browInnerUp"):
        moved = template.vertices + template.expressions[template.expression_names.index(name)]
        write_mesh(folder / f"{name}.obj", moved, template.triangles)
    rows = zip(template.landmark_triangles.tolist(), template.landmark_barycentrics.tolist(), strict=True)
    lines = [f"{triangle} {' '.join(f'{b:.6f}' for b in weights)}\n" for triangle, weights in rows]
    (folder / "landmarks.txt").write_text("".join(lines))
    return folder
