"""Neither training steps nor rendering wait for a GPU: no value is read back, nothing is made from numbers of the host.

So both can be recorded as CUDA graphs. They run here on the CPU as they would there: tensors claim to be on a GPU, and
kernels do nothing.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import triton.runtime.interpreter
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fmlfast.common.tensors import constant
from fmlfast.data.augment import AugmentConfig, Batch
from fmlfast.data.loader import ClipDataset, training_batches
from fmlfast.kernels import deviation_triton
from fmlfast.kernels.antialias import antialias
from fmlfast.kernels.common.cache import TensorCache
from fmlfast.kernels.deviation import deviation
from fmlfast.kernels.interpolate import interpolate
from fmlfast.kernels.interpolate_derivatives import interpolate_derivatives
from fmlfast.kernels.rasterize import rasterize
from fmlfast.kernels.texture import texture
from fmlfast.losses import LossWeights
from fmlfast.model.config import ModelConfig
from fmlfast.model.fml import FML
from fmlfast.training.distributed import World
from fmlfast.training.step import Phase, Rates, TrainingStep
from tests.helpers.small_model import SMALL

READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "_linalg_check_errors"}
COUNTS = {
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}
COUNTED = {"repeat_interleave.Tensor", "repeat_interleave.self_Tensor"}
MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}
UPLOADS = [(torch, "tensor"), (torch, "as_tensor"), (torch, "from_numpy"), (Tensor, "new_tensor")]
DOWNLOADS = [(Tensor, "cpu"), (Tensor, "numpy"), (Tensor, "tolist")]
PHASES = [Phase(1.0, 0.5, False), Phase(1.0, 1.0, True), Phase(1.0, 0.0, True)]


class NoWaiting(TorchDispatchMode):
    """Fails at an operation whose values, or whose size, the host would have to wait for on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name, overload = func.overloadpacket.__name__, str(func).removeprefix("aten.")
        assert name not in READS | COUNTS and overload not in COUNTED, f"{overload} waits for a GPU"
        if name in MASKED:
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "a mask waits to be counted"
        if func.namespace == "fmlfast":  # look inside
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False), raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(triton.runtime.interpreter.GridExecutor, "__call__", lambda *args, **kwargs: None)


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes copies between host and device fail from its call on."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a copy between host and device waits for a GPU")

    def start() -> None:
        for owner, name in UPLOADS + DOWNLOADS:
            monkeypatch.setattr(owner, name, refuse)

    return start


@pytest.fixture(scope="module")
def batch(synthetic_folder: Path) -> Batch:
    clips = ClipDataset(synthetic_folder, "train", SMALL.image_size, 10**9)
    return next(iter(training_batches(clips, batch=3, frames=4, steps=1, seed=1)))


CONFIGS = {
    "default": SMALL,
    "backface": replace(SMALL, visibility="backface"),
    "pose": replace(SMALL, shape_init=False),
    "paper": replace(SMALL, inputs="paper", shape_init=False),
}


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_step_waits_for_nothing(
    batch: Batch, config: ModelConfig, no_copies: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, whole = FML(config).train(), AugmentConfig()
    step = TrainingStep(model, LossWeights(), whole, Rates(), 1.0, True, False, World.start("cpu"))
    for phase in PHASES:
        step(batch, phase)  # makes what is made once
    uploads, made = constant.cache_info().misses, []
    get = TensorCache.get

    def watched(cache: TensorCache, tensor: Tensor, key: Any, make: Callable[[], Any]) -> Any:
        return get(cache, tensor, key, lambda: (made.append(key), make())[1])

    monkeypatch.setattr(TensorCache, "get", watched)
    no_copies()
    with NoWaiting():
        for phase in PHASES:
            step(batch, phase)
    assert constant.cache_info().misses == uploads and not made


@pytest.mark.usefixtures("on_a_gpu")
def test_rendering_waits_for_nothing(no_copies: Callable[[], None]) -> None:
    g = torch.Generator().manual_seed(0)
    leaves = [torch.rand(*shape, generator=g).requires_grad_() for shape in ((2, 9, 3), (1, 9, 2), (1, 8, 8, 3))]
    points, uv, texels = leaves
    triangles = torch.randint(0, 9, (7, 3), generator=g)
    Ks = torch.tensor([[4.0, 0, 4], [0, 4, 3], [0, 0, 1]]).repeat(2, 1, 1)

    def draw() -> None:
        drawn = rasterize(points, triangles, Ks, 6, 8, derivatives=True)
        places = interpolate(uv, triangles, drawn)
        image = texture(texels, places, interpolate_derivatives(uv, triangles, drawn))
        image = antialias(image, points, triangles, Ks, drawn)
        torch.autograd.grad(image, leaves, torch.ones_like(image))

    draw()  # makes what is made once
    no_copies()
    with NoWaiting():
        draw()


WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool(x.sum() > 0),
    "list": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
    "masked assignment": lambda x: x.__setitem__(x > 0, torch.ones(1)),
    "nonzero": lambda x: x.nonzero(),
    "repeat": lambda x: x.repeat_interleave(torch.arange(3)),
    "equal": lambda x: torch.equal(x, x),
    "solve": lambda x: torch.linalg.solve(torch.eye(3), x),
    "upload": lambda x: torch.tensor([1.0]),
    "download": lambda x: x.cpu(),
}


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
def test_what_waits_is_noticed(wait: Callable[[Tensor], object], no_copies: Callable[[], None]) -> None:
    x = torch.arange(3.0) - 1
    no_copies()
    with NoWaiting(), pytest.raises(AssertionError, match=r"wait"):
        wait(x)


@pytest.mark.usefixtures("on_a_gpu")
def test_what_waits_inside_of_an_operation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    values, mean = torch.rand(2, 4, 3), torch.rand(4, 3)
    deviation(values, mean)
    monkeypatch.setattr(deviation_triton, "lanes", lambda default: int(values.sum()))
    with NoWaiting(), pytest.raises(AssertionError, match="waits for a GPU"):
        deviation(values, mean)
