"""Collects the identity targets of MakeHuman's face as sparse displacements of the template."""

from itertools import product

import numpy as np
from makehuman import MakeHuman
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fmlfast.data.synthetic.people import AGES, ETHNICITIES, GENDERS, LEVELS

DETAIL_FOLDERS = ("head", "cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "mouth", "neck", "nose", "asym")
OPPOSITES = (
    ("incr", "decr"),
    ("up", "down"),
    ("out", "in"),
    ("forward", "backward"),
    ("convex", "concave"),
    ("uncompress", "compress"),
    ("round", "square"),
    ("triangle", "pointed"),
)
BELOW_THE_NECK = ("asymm-breast", "asymm-trunk")
SMALLEST = 0.002  # mm; displacements below it are dropped


def identity_arrays(
    raw: MakeHuman, operator: csr_array, rest: NDArray[np.float64], outer: NDArray[np.bool_]
) -> dict[str, NDArray]:
    """Computes the `people_*` arrays of the template file from raw targets and the template's operator [V, N].

    Macro targets (ethnicity x gender x age, and gender x age x muscle x weight) move the whole body, so their mean
    translation, of the vertices `outer` [V], is taken out: it keeps them small enough for float16, and alignment
    removes it anyway.
    """
    targets: dict[str, NDArray[np.float64]] = {}
    macro = [f"{e}-{g}-{a}" for e, g, a in product(ETHNICITIES, GENDERS, AGES)]
    macro += [f"universal-{g}-{a}-{m}muscle-{w}weight" for g, a, m, w in product(GENDERS, AGES, LEVELS, LEVELS)]
    for name in macro:
        deltas = operator @ raw.target(f"mpfb2/targets/macrodetails/{name}.target.gz")  # [V, 3]
        targets[name] = deltas - deltas[outer].mean(0)
    details: dict[str, NDArray[np.float64]] = {}
    for folder in DETAIL_FOLDERS:
        for name, path in raw.targets(f"mpfb2/targets/{folder}").items():
            if not name.startswith(BELOW_THE_NECK):
                details[name] = operator @ raw.target(path)
    details = {name: deltas for name, deltas in details.items() if np.abs(deltas).max() > SMALLEST}
    names = macro + list(details)
    index = {name: k for k, name in enumerate(names)}
    pairs = [(index[a], index[b] if b else -1) for a, b in detail_pairs(list(details))]
    return {
        "people_rest": rest.astype(np.float32),
        "people_names": np.array(names),
        "people_details": np.array(pairs, np.int16),
        **sparse_deltas([targets[name] for name in macro] + list(details.values())),
    }


def detail_pairs(names: list[str]) -> list[tuple[str, str | None]]:
    """Lists pairs (positive end, negative end) of opposite targets, then single targets paired with None."""
    pairs: list[tuple[str, str | None]] = []
    used: set[str] = set()
    for name in names:
        for positive, negative in OPPOSITES:
            opposite = name.removesuffix(positive) + negative
            if name.endswith(f"-{positive}") and opposite in names and name not in used:
                pairs.append((name, opposite))
                used |= {name, opposite}
    return pairs + [(name, None) for name in names if name not in used]


def sparse_deltas(deltas: list[NDArray[np.float64]]) -> dict[str, NDArray]:
    """Converts dense displacements [V, 3] to sparse ones: moving vertices, float16 displacements, offsets."""
    moved = [np.flatnonzero(np.abs(d).max(1) > SMALLEST) for d in deltas]
    return {
        "people_offsets": np.cumsum([0] + [len(ids) for ids in moved]).astype(np.int32),
        "people_vertices": np.concatenate(moved).astype(np.uint16),
        "people_deltas": np.concatenate([d[ids] for d, ids in zip(deltas, moved, strict=True)]).astype(np.float16),
    }
