"""Lists the studies by name, in the order of the report: the paper's claims first."""

from benchmarks.paper import (
    basis,
    complement,
    frames,
    generalisation,
    pose,
    presets,
    refinement,
    robustness,
    terms,
)
from benchmarks.paper.study import Study

MODULES = (frames, generalisation, complement, terms, basis, refinement, robustness, pose, presets)
STUDIES: dict[str, Study] = {module.STUDY.name: module.STUDY for module in MODULES}
