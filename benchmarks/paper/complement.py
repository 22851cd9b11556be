"""Measures the orthogonal complement: how far identity drifts with expression, and what it costs."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.paper.disentangling import explained_share, transfer_errors, variance_ratio, within_mm
from benchmarks.paper.generalisation import true_neutrals
from benchmarks.paper.rows import Row
from benchmarks.paper.study import Case, Changes, Measured, Study
from benchmarks.paper.summary import number, ratio, table, verdict
from fmlfast.data.frames import Frames
from fmlfast.data.shards import list_clips, read_clip, read_truth
from fmlfast.evaluation.protocol import evaluation_template, measure
from fmlfast.model.codes import Codes
from fmlfast.model.fml import FML
from fmlfast.reconstruction.refinement import refine
from fmlfast.template.face_template import FaceTemplate
from train import Config

RANKS = {"off": 0, "10 directions": 10, "full": None}
BATCH = 20  # clips at once


@torch.no_grad()
def measure_model(model: FML, case: Case) -> Measured:
    """Measures drift of frames and of halves of long clips, transfer of expressions, and the evaluation's table."""
    table = Measured.of(measure(model, case.data, refine_steps=case.refine, clips=case.clips))
    template = evaluation_template(model.template.to("cpu"))
    inside = template.regions["face"] > 0
    face = template.regions["face"][inside]
    refs = list_clips(case.long_clips, "test")[: case.clips]
    truth = read_truth(case.long_clips, "test")
    device = model.code_mean.device
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    shapes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for start in range(0, len(refs), BATCH):
        clips = [read_clip(ref) for ref in refs[start : start + BATCH]]
        frames = Frames.from_clips(clips, model.config.image_size).to(device)
        people, count = frames.mask.shape
        parts = {"frame": _pieces(frames, count), "half": _pieces(frames, 2)}
        for name, pieces in parts.items():
            codes = model.encode(pieces)
            answers = {name: codes}
            if name == "frame":
                answers["frame_refined"] = refine(model, pieces, codes, case.refine)
            for row, answer in answers.items():
                neutral = model.neutral(answer, template).cpu()[:, inside]
                alpha = answer.identity.cpu()
                found.setdefault(row, []).append((alpha.view(people, -1, alpha.shape[1]), _split(neutral, people)))
        codes = model.encode(frames)
        for row, answer in {"transfer": codes, "transfer_refined": refine(model, frames, codes, case.refine)}.items():
            shapes.setdefault(row, []).append(_face_and_moves(model, answer, template, inside))

    def expressions(key: str) -> Tensor:
        return torch.from_numpy(truth[key]["expression"]).float()

    causes = torch.stack([expressions(ref.key) for ref in refs])  # [N, M, E]
    true_neutral = true_neutrals(case.long_clips, "test", template, case.clips)
    true_moves = torch.einsum("nme,evc->nmvc", causes, template.expressions[:, inside])
    metrics, spread = {}, {}
    for row, pairs in found.items():
        alpha, neutral = (torch.cat(part) for part in zip(*pairs, strict=True))
        aligned, apart = within_mm(neutral, face)
        weighted = (aligned * face.double().sqrt()[:, None]).flatten(2)
        metrics[row] = {
            "alpha_ratio": variance_ratio(alpha),
            "neutral_ratio": variance_ratio(weighted),
            "neutral_within_mm": float(apart.mean()),
        }
        if alpha.shape[1] == causes.shape[1]:
            share = explained_share(weighted, causes)
            metrics[row] |= {"expression_share": share, "expression_ratio": share * metrics[row]["neutral_ratio"]}
        spread[row] = {"neutral_within_mm": float(apart.std() / len(apart) ** 0.5)}
    for row, pairs in shapes.items():
        neutral, moves = (torch.cat(part) for part in zip(*pairs, strict=True))
        truths = true_neutral[:, inside], true_moves
        errors = {
            "transfer_mm": transfer_errors(neutral, moves, *truths, face),
            "own_mm": transfer_errors(neutral, moves, *truths, face, shift=0),
            "no_expression_mm": transfer_errors(neutral, torch.zeros_like(moves), *truths, face),
        }
        metrics[row] = {name: float(values.mean()) for name, values in errors.items()}
        spread[row] = {name: float(values.std() / len(values) ** 0.5) for name, values in errors.items()}
    return table | Measured(metrics, spread)


def _pieces(frames: Frames, pieces: int) -> Frames:
    """Cuts each clip of M frames into subjects of M / pieces frames, a person's in a row."""
    return frames.map(lambda values: values.unflatten(1, (pieces, -1)).flatten(0, 1))


def _split(values: Tensor, people: int) -> Tensor:
    return values.unflatten(0, (people, -1))


def _face_and_moves(model: FML, codes: Codes, template: FaceTemplate, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Returns neutral faces [N, V, 3] and what expressions move [N, M, V, 3]."""
    neutral = model.neutral(codes, template).cpu()[:, inside]
    return neutral, model.geometry(codes, template).cpu()[:, :, inside] - neutral[:, None]


def variants(base: Config) -> dict[str, Changes]:
    """Lets identity do all that expressions do, all but the strongest of it, and none of it."""
    # Smooth fields of a start from landmarks are not held by the complement, and would do what it forbids.
    return {name: {"model.complement_rank": rank, "model.shape_init": False} for name, rank in RANKS.items()}


def section(rows: Sequence[Row], docs: Path) -> str:
    """Verdicts about drift and transfer, and tables of both and of the error."""

    def value(variant: str, row: str, metric: str):
        return number(rows, variant, row, metric)

    parts = [
        verdict(
            "The full complement lowers the drift of neutral faces with expression",
            value("full", "frame", "expression_ratio"),
            value("off", "frame", "expression_ratio"),
        ),
        verdict(
            "Another person's expression codes bring a face nearer to the truth than none do",
            value("full", "transfer", "transfer_mm"),
            value("full", "transfer", "no_expression_mm"),
            " mm",
        ),
        verdict(
            "The full complement lowers the error of transferred expressions",
            value("full", "transfer", "transfer_mm"),
            value("off", "transfer", "transfer_mm"),
            " mm",
        ),
    ]
    drift = {"alpha_ratio": "codes", "neutral_ratio": "neutral face", "neutral_within_mm": "neutral face, mm"}
    due = drift | {"expression_ratio": "neutral face, due to expression"}
    kinds = {"frame": ("Single frames", due), "frame_refined": ("Single frames, refined", due)}
    kinds["half"] = ("Halves of a clip, four frames each", drift)
    for row, (words, metrics) in kinds.items():
        lines = [(name, [value(name, row, metric) for metric in metrics]) for name in RANKS]
        parts += [
            f"{words}: variance of identity within people over variance across them, and RMS distance within people.",
            table(["complement", *metrics.values()], lines),
        ]
    header = ["complement", "own", "transferred", "no expression", "own, refined", "transferred, refined"]
    cells = [("transfer", name) for name in ("own_mm", "transfer_mm", "no_expression_mm")]
    cells += [("transfer_refined", name) for name in ("own_mm", "transfer_mm")]
    lines = [(name, [value(name, *cell) for cell in cells]) for name in RANKS]
    parts += ["Error of a person's own expressions and of another person's, mm:", table(header, lines)]
    header = ["complement", "vertex_mm, 4 frames", "refined", "neutral_mm, 4 frames", "refined"]
    cells = [(row, metric) for metric in ("vertex_mm", "neutral_mm") for row in ("frames_4", "frames_4_refined")]
    lines = [(name, [ratio(rows, name, *cell) for cell in cells]) for name in RANKS]
    parts += ["What it costs, over the mean face:", table(header, lines)]
    return "\n\n".join(parts)


STUDY = Study(
    name="complement",
    title="Identity and expression come apart",
    about=(
        "Identity may not use the strongest directions of the expressions on the graph: none, 10, or all of them "
        "(the paper). These models have no start from landmarks, as the paper's have none: its smooth fields "
        "stand beside the learned basis, and the complement does not hold them; nor does it hold those that refinement "
        "adds. Drift is measured on clips of eight frames, whose expressions differ: the variance of a "
        "person's identity, over single frames or halves of the clip, over the variance across people; for neutral "
        "faces after similarity alignment, and with the share that a linear function of the true expression explains"
        " (adjusted for chance). Transfer puts the expression codes of one person on another's identity and compares"
        " with the true face of the one in the true expression of the other."
    ),
    variants=variants,
    measure=measure_model,
    section=section,
    long_clips=True,
)
