"""Computes the least time of each stage of a training step from its bytes and operations."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.sizes import FLOAT
from benchmarks.harness.timing import copy_bandwidth, time_cpu, time_gpu
from benchmarks.ops import blendshape, deform, deviation, low_rank_adam, photometric, rasterize, shading, sparsity
from benchmarks.ops import visibility as seen
from fmlfast.model.fml import FML

ADAM = 7 * FLOAT
"""Bytes of a parameter in Adam: itself, its gradient and two moments read, all but the gradient written."""


def stage_bytes(
    model: FML,
    subjects: int,
    frames: int,
    moment_bytes: int = FLOAT,
) -> dict[str, float]:
    """Counts the bytes that each stage of a step moves, by its row in the profile, each byte once.

    Args:
        model: names the sizes; anywhere.
        subjects: of a batch.
        frames: of each of them.
        moment_bytes: of a moment of the reflectance basis, 2 for bfloat16.
    """
    config, mesh = model.config, model.template
    count, size, nodes = subjects * frames, config.image_size, len(mesh.nodes)
    vertices, triangles, edges = len(mesh.vertices), len(mesh.triangles), len(model.mesh_edges)
    pixels, rank = count * size**2, config.reflectance_dim
    others = sum(p.numel() for p in model.parameters()) - model.face.reflectance_basis.numel()
    buffered = config.visibility == "zbuffer"
    # Of what the rasterizer writes, depth alone is used.
    drawn = rasterize.forward_cost(count, vertices, triangles, 0, 0).bytes + FLOAT * pixels
    test = seen.forward_cost(count, vertices, pixels).bytes
    return {
        "augment": 3 * pixels * (1 + FLOAT),
        "geometry": deform.forward_cost(subjects, frames, vertices, nodes).bytes
        + blendshape.forward_cost(subjects, rank, 3 * vertices).bytes,
        "shading": shading.fused_forward_cost(subjects, count, vertices, triangles).bytes,
        "visibility": drawn + test if buffered else FLOAT * 7 * count * vertices,
        "photometric": photometric.forward_cost(count, vertices, pixels).bytes + 6 * FLOAT * pixels,
        "regularisers": sparsity.chromaticity_cost(subjects, frames, vertices).bytes
        + sparsity.forward_cost(subjects, vertices, edges).bytes
        + deviation.forward_cost(subjects, vertices).bytes,
        "regularisers, backward": sparsity.backward_cost(subjects, vertices, edges).bytes
        + deviation.backward_cost(subjects, vertices).bytes,
        "photometric, backward": photometric.backward_cost(count, vertices, pixels).bytes,
        "shading, backward": shading.fused_backward_cost(subjects, count, vertices, triangles).bytes,
        "geometry, backward": deform.backward_cost(subjects, frames, vertices, nodes).bytes,
        "optimiser": low_rank_adam.forward_cost(subjects, rank, 3 * vertices, moment_bytes).bytes + ADAM * others,
    }


def network_flops(model: FML) -> float:
    """Counts additions and multiplications of the encoder's convolutions and products for one frame, forward."""
    encoder, size = model.encoder, model.config.input_size
    training, device = encoder.training, model.code_mean.device
    features = encoder.side_norm.num_features if encoder.side_norm is not None else 0
    side = torch.zeros(1, features, device=device) if features else None
    encoder.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(
            torch.zeros(1, 1, 3, size, size, device=device), torch.ones(1, 1, dtype=torch.bool, device=device), side
        )
    encoder.train(training)
    return float(counter.get_total_flops())


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """Measures additions and multiplications a second of large square matrix products."""
    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        torch.mm(a, b)

    timing = time_cpu(multiply, 5) if device == "cpu" else time_gpu([multiply], 0.3)
    return 2 * size**3 / (timing.median_ms / 1e3)


def step_floors(
    model: FML,
    subjects: int,
    frames: int,
    moment_bytes: int = FLOAT,
) -> dict[str, float]:
    """Returns the microseconds that each stage takes at least on the model's device, for `profile_steps`.

    Bytes at the bandwidth of copying, and the network's arithmetic at the rate of matrix products in its precision,
    both measured now. Twice as much arithmetic is needed backward. Landmarks have no floor worth a row.
    """
    device = str(model.code_mean.device)
    bandwidth = copy_bandwidth(device)
    floors = {
        name: moved / bandwidth * 1e6 for name, moved in stage_bytes(model, subjects, frames, moment_bytes).items()
    }
    rate = matmul_rate(device, torch.bfloat16 if model.encoder.bf16 else torch.float32)
    forward = network_flops(model) * subjects * frames / rate * 1e6
    return {"encode": forward, **floors, "encode, backward": 2 * forward}
