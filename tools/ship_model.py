"""Copies a finished run into the package as the shipped model: `python tools/ship_model.py RUN "its command"`.

Matrices are stored in half precision, which halves the file; loading makes them float32 again.
"""

import json
import sys
from pathlib import Path

import fmlfast.common.passive_waiting  # noqa: F401  (before torch)

import torch
from safetensors.torch import load_file

from fmlfast.common.atomic import atomic_path
from fmlfast.common.tensor_file import write_tensors
from fmlfast.model.fml import FML
from fmlfast.model.pretrained import FOLDER


def main(run: Path, command: str) -> None:
    FML.load(run)  # raises an error for an invalid run
    tensors = load_file(run / "model.safetensors")
    small = {
        name: value.half() if value.ndim > 1 and name.startswith(("encoder", "face")) else value
        for name, value in tensors.items()
    }
    config = json.loads((run / "config.json").read_text())
    people = "synthetic people alone: MakeHuman's (CC0), and people drawn from ICT-FaceKit light (MIT)"
    config["train"] |= {"run": "runs/shipped", "data": "data/people"}  # as in the command, not where it happened to run
    config["made_by"] = {"command": command, "data": people}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with atomic_path(FOLDER / "model.safetensors") as path:
        write_tensors(path, small)
        path.chmod(0o644)
    with atomic_path(FOLDER / "config.json") as path:
        path.write_text(json.dumps(config, indent=2) + "\n")
    lost = max(float((value.float() - tensors[name]).abs().max()) for name, value in small.items())
    print(f"{FOLDER}: {(FOLDER / 'model.safetensors').stat().st_size / 1e6:.1f} MB, weights off by {lost:.1g} at most")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    torch.set_grad_enabled(False)
    main(Path(sys.argv[1]), sys.argv[2])
