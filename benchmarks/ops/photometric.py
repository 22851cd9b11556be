"""`photometric` and `photometric_pixels`: a model's colours against images."""

from benchmarks.harness.case import Bench, Cost, Inputs
from benchmarks.harness.scenes import Random, Scene
from benchmarks.ops._sizes import FLOAT, SUBJECTS, TRAINING, error_of_most, measured
from fmlfast.kernels.photometric import photometric, photometric_pixels

KIND = "geman"
"""As in training."""
SEEN = 0.4
"""Share of the vertices with a weight."""


def forward_cost(frames: int, vertices: int, pixels: int) -> Cost:
    """Images, vertices, colours and weights in, a loss a frame and the colours of the images at the vertices out."""
    memory = FLOAT * (3 * pixels + 10 * frames * vertices + 10 * frames)
    return Cost(memory, frames * vertices * SEEN * (10 + 3 * 8 + 12))  # a projection, three samples, a cost


def backward_cost(frames: int, vertices: int, pixels: int) -> Cost:
    """Reads the inputs again, writes gradients of vertices and colours; local gradients kept instead are as large."""
    memory = FLOAT * (3 * pixels + 13 * frames * vertices + 10 * frames)
    return Cost(memory, frames * vertices * SEEN * (10 + 3 * 14 + 30))


def pixels_forward_cost(frames: int, pixels: int, channels: int = 3) -> Cost:
    """Two images and weights in, a loss a frame out."""
    return Cost(FLOAT * ((2 * channels + 1) * pixels + frames), (3 * channels + 8) * pixels)


def pixels_backward_cost(frames: int, pixels: int, channels: int = 3) -> Cost:
    """Reads the inputs again and writes the gradient of one image."""
    return Cost(FLOAT * ((3 * channels + 1) * pixels + frames), (5 * channels + 10) * pixels)


def case(scene: Scene) -> Bench:
    """Noise for images; SEEN of the vertices, in runs as on a mesh, count."""
    size = scene.count, scene.mesh.vertices, scene.pixels

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        views = scene.views(random)
        height = views["vertices"][..., 2]
        nearer = (height < height.quantile(SEEN, dim=1, keepdim=True)).float()
        return {
            "images": random.uniform(scene.count, 3, scene.image, scene.image),
            "vertices": views["vertices"],
            "Ks": views["Ks"],
            "colors": random.uniform(scene.count, scene.mesh.vertices, 3),
            "weights": nearer,
        }

    return measured(
        scene,
        "vertex",
        scene.count * scene.mesh.vertices,
        op="photometric",
        shape=str(scene),
        make=make,
        run=lambda inputs, backend: photometric(**inputs, kind=KIND, backend=backend),
        differentiable=("vertices", "colors"),
        forward=forward_cost(*size),
        backward=backward_cost(*size),
        error=error_of_most,
    )


def pixels_case(scene: Scene) -> Bench:
    """Two images of noise."""
    shape = scene.count, scene.image, scene.image

    def make(device: str, seed: int) -> Inputs:
        random = Random(device, seed)
        return {
            "rendered": random.uniform(*shape, 3),
            "images": random.uniform(*shape, 3),
            "weights": (random.uniform(*shape) < SEEN).float(),
        }

    return measured(
        scene,
        "pixel",
        scene.pixels,
        op="photometric_pixels",
        shape=f"{scene.count} frames, {scene.image} px",
        make=make,
        run=lambda inputs, backend: (photometric_pixels(**inputs, kind=KIND, backend=backend),),
        differentiable=("rendered",),
        forward=pixels_forward_cost(scene.count, scene.pixels),
        backward=pixels_backward_cost(scene.count, scene.pixels),
    )


CASES = [
    *(case(scene) for scene in TRAINING),
    *(pixels_case(scene) for scene in TRAINING),
    *(case(scene) for scene in SUBJECTS),
]
