"""Measures how closely learned identities fit unseen people, against a PCA of 3D scans."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper.curves import Curve, draw
from benchmarks.paper.rows import Row
from benchmarks.paper.spaces import Space, best_fit, field_space, identity_space, ordered, pca
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, table, text, verdict
from fmlfast import metrics
from fmlfast.data.shards import list_clips, read_truth
from fmlfast.evaluation.protocol import evaluation_template
from fmlfast.model.face_model import SMOOTH_FIELDS
from fmlfast.model.fml import FML
from fmlfast.model.gp_basis import smooth_fields, sort_modes_by_face_motion
from fmlfast.template.face_template import FaceTemplate
from train import Config

SIZES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500)  # components
SCANS = (50, 200, 800, 1600)
LEARNED, ON_TRAINING, FIELDS, TEMPLATE = "learned", "learned, on training people", "fields", "template"
CURVE = "components"  # row of the learned space's size


def true_neutrals(folder: Path, split: str, template: FaceTemplate, most: int | None) -> Tensor:
    """Reads true neutral faces [N, V, 3] mm of the first clips of a split on a level of the template."""
    truth = read_truth(folder, split)
    base = [torch.from_numpy(truth[ref.key]["vertices"]).float() for ref in list_clips(folder, split)[:most]]
    return template.subdivide(torch.stack(base))


def measure_model(model: FML, case: Case) -> Measured:
    """Finds least errors in mm: row -> number of components -> mean over people."""
    template = evaluation_template(model.template.to("cpu"))
    inside = template.regions["face"] > 0
    face = template.regions["face"][inside]

    def cut(space: Space) -> Space:
        return Space(space.mean[inside], space.basis[:, inside])

    unseen = true_neutrals(case.data, "test", template, case.clips)[:, inside]
    scans = true_neutrals(case.data, "train", template, None)[:, inside]
    learned = ordered(cut(identity_space(model)), face)
    dims = len(learned.basis)
    every = smooth_fields(model.template.nodes.cpu(), SMOOTH_FIELDS)
    fields = sort_modes_by_face_motion(every, model.template.to("cpu"))[:dims]
    spaces = {LEARNED: (learned, unseen), FIELDS: (cut(field_space(template, fields)), unseen)}
    spaces[ON_TRAINING] = (learned, scans[: len(unseen)])
    for count in sorted({count for count in SCANS if count < len(scans)} | {len(scans)}):
        spaces[f"scans {count}"] = (pca(scans[:count], face, SIZES[-1]), unseen)
    found, spread = {}, {}
    for name, (space, people) in spaces.items():
        sizes = sorted({size for size in (*SIZES, dims) if size <= len(space.basis)})
        errors = {str(size): best_fit(space.leading(size), people, face) for size in sizes}
        found[name] = {size: float(values.mean()) for size, values in errors.items()}
        spread[name] = {size: float(values.std() / len(values) ** 0.5) for size, values in errors.items()}
    alone = metrics.vertex_error(template.vertices[inside].expand_as(unseen), unseen, face)
    found[TEMPLATE], spread[TEMPLATE] = {"0": float(alone.mean())}, {"0": float(alone.std() / len(alone) ** 0.5)}
    found[CURVE] = {LEARNED: float(dims)}
    return Measured(found, spread)


def variants(base: Config) -> dict[str, Changes]:
    """The default run."""
    return {"default": {}}


def section(rows: Sequence[Row], docs: Path) -> str:
    """Verdicts, the table with as many components as were learned, and the curve."""
    names = list(rows[0].metrics)
    dims = f"{rows[0].metrics[CURVE][LEARNED]:.0f}"
    scans = sorted((name for name in names if name.startswith("scans ")), key=lambda name: int(name.split()[1]))
    template = number(rows, "default", TEMPLATE, "0")
    learned = number(rows, "default", LEARNED, dims)
    words = {TEMPLATE: "the template alone", FIELDS: "smooth fields of the graph, nothing learned"}
    words |= {LEARNED: "learned from clips", ON_TRAINING: "the same, fitted to people of the training set"}
    words |= {name: f"PCA of {name.split()[1]} people's 3D scans" for name in scans}
    parts = [
        verdict("The learned identities fit unseen people better than the template", learned, template, " mm"),
        verdict(
            "They fit better than as many smooth fields of the graph",
            learned,
            number(rows, "default", FIELDS, dims),
            " mm",
        ),
        f"With {dims} components:",
        table(
            ["space", "least error, mm"],
            [(words[name], [number(rows, "default", name, "0" if name == TEMPLATE else dims)]) for name in words],
        ),
    ]
    curves = []
    sizes = [str(size) for size in SIZES]
    header = ["components", *(words[name] for name in (LEARNED, FIELDS, *scans))]
    lines = []
    for size in sizes:
        values = [number(rows, "default", name, size) for name in (LEARNED, FIELDS, *scans)]
        if any(values):
            lines.append((size, values))
    parts += ["Least error in mm by number of components:", table(header, lines)]
    for name in (LEARNED, FIELDS, *scans):
        points = [(int(size), number(rows, "default", name, size)) for size in sizes]
        curves.append(Curve(words[name], [(x, y.mean) for x, y in points if y is not None]))
    picture = draw(docs, f"results-generalisation-{rows[0].budget}", "components", "least error, mm", curves)
    return "\n\n".join([*parts, picture, f"The template alone: {text(template)} mm."])


STUDY = Study(
    name="generalisation",
    title="The learned identities generalise to unseen people",
    about=(
        "The neutral face of the space that is closest to each held-out person's true neutral face: codes and "
        "similarity by alternating least squares, no prior. What is learned from clips is the identity basis and, "
        "before it, the smooth fields of the start from landmarks; components are ordered by how much people vary "
        "along them. The model it is compared with is a PCA of true 3D scans "
        "of training people on the same mesh, Procrustes aligned, with as many components: what the paper's method "
        "does without."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
)
