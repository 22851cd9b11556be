"""Several processes compute as one does: BatchNorm, gradients, factors, and what happens when one fails."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fmlfast.kernels.blendshape import pad_columns
from fmlfast.model.encoder import Encoder
from fmlfast.model.fml import FML
from fmlfast.optim import LowRankAdam
from fmlfast.training.distributed import World
from tests.helpers.small_model import SMALL
from tests.helpers.two_processes import launch, work

ALONE = World(0, 1, torch.device("cpu"))


def own(world: World, rows: Tensor) -> Tensor:
    """This process's share of a batch's rows."""
    share = len(rows) // world.size
    return rows[share * world.rank : share * (world.rank + 1)]


# What follows runs alone on a whole batch, and in several processes on shares of it. Results under "rows" are
# those of a process's rows, all others are to be the same in every process.


def normalisation(world: World, dtype: torch.dtype) -> dict[str, Tensor]:
    """Two kinds of BatchNorm, on inputs whose mean is far above their spread."""
    g = torch.Generator().manual_seed(0)
    x = (100 + torch.randn(4, 6, 4, 3, generator=g, dtype=dtype)).contiguous(memory_format=torch.channels_last)
    x, target = own(world, x).requires_grad_(), own(world, torch.randn(4, 7, generator=g, dtype=dtype))
    torch.manual_seed(1 + world.rank)  # the wrapper takes the main process's parameters
    dense = nn.Linear(72, 7)
    plain = nn.Sequential(
        nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), dense, nn.BatchNorm1d(7, affine=False, momentum=0.02)
    )
    plain = plain.to(dtype)
    wrapped = world.wrap(plain)
    for _ in range(3):
        plain.zero_grad()
        x.grad = None
        out = wrapped(x)
        (out - target).abs().pow(3).mean().backward()
    assert x.grad is not None
    results = {"rows.out": out.detach(), "rows.gradient": x.grad / world.size}
    results |= {f"gradient.{name}": p.grad for name, p in plain.named_parameters() if p.grad is not None}
    return results | {f"state.{name}": tensor for name, tensor in plain.state_dict().items()}


def encoding(world: World) -> dict[str, Tensor]:
    """The network: gradients through the wrapper, and what the model itself then gives in evaluation."""
    g = torch.Generator().manual_seed(0)
    images, side = torch.rand(4, 3, 3, 16, 16, generator=g), torch.randn(4, 3, 5, generator=g)
    mask, target = torch.rand(4, 3, generator=g) < 0.8, torch.randn(4, 3, generator=g)
    mask[:, 0] = True
    torch.manual_seed(1)
    plain = Encoder(16, (4, 6), 8, aux=5, identity_codes=3, frame_parameters=2, expressions=1)
    names = list(plain.state_dict())
    images, side, mask, target = (own(world, t) for t in (images, side, mask, target))
    wrapped = world.wrap(plain)
    codes, raw = wrapped(images, mask, side.flatten(0, 1))
    ((codes - target).square().mean() + raw[..., 0].square().mean()).backward()
    assert list(plain.state_dict()) == names
    gradients = {f"gradient.{name}": p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(plain.parameters()))
    results = {"rows.codes": codes.detach(), "rows.raw": raw.detach()} | gradients
    plain.eval()
    with torch.no_grad():
        results["rows.evaluated"] = plain(images, mask, side.flatten(0, 1))[1]
    return results | {f"state.{name}": tensor for name, tensor in plain.state_dict().items()}


def factors(world: World) -> dict[str, Tensor]:
    """Five clipped steps of a decoder, with the gradient of the codes from the step."""
    g = torch.Generator().manual_seed(0)
    basis, mean = nn.Parameter(pad_columns(torch.randn(5, 33, generator=g))), nn.Parameter(torch.zeros(33))
    decoder, adam = LowRankAdam(basis, 0.02), torch.optim.Adam([mean], 0.02)
    results = {}
    for step in range(5):
        codes, target = torch.randn(4, 5, generator=g), torch.randn(4, 33, generator=g)
        codes, target = own(world, codes), own(world, target)
        decoder.zero_grad()
        adam.zero_grad()
        (decoder.decode(codes, mean) - target).square().mean().backward()
        world.average_gradients([mean])
        world.gather_factors(decoder)
        results[f"norm.{step}"] = decoder.clip_grad_norm_(0.1, [mean])
        adam.step()
        gradient = decoder.step(codes_gradient=True)
        assert gradient is not None
        results[f"rows.{step}"] = own(world, gradient) / world.size
    return results | {"basis": basis.detach(), "mean": mean.detach()}


def means(world: World) -> dict[str, Tensor]:
    """Gradients and terms averaged, and work that is done once."""
    values = torch.arange(12.0).view(4, 3)
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(()))]
    parameters[0].grad, parameters[1].grad = own(world, values).mean(0), own(world, values).mean() * torch.ones(2, 2)
    world.average_gradients(parameters)
    assert parameters[0].grad is not None and parameters[1].grad is not None and parameters[2].grad is None
    terms = world.mean({"a": own(world, values).mean(), "b": own(world, values).square().mean()})
    return {"0": parameters[0].grad, "1": parameters[1].grad} | terms


def pieces(world: World) -> dict[str, Tensor]:
    """All of the above."""
    parts = {
        "float64": normalisation(world, torch.float64),
        "float32": normalisation(world, torch.float32),
        "encoder": encoding(world),
        "factors": factors(world),
        "means": means(world),
    }
    return {f"{part}/{name}": tensor for part, results in parts.items() for name, tensor in results.items()}


@pytest.mark.parametrize("changes", [{}, {"light_complement": False, "smooth_basis": False}])
def test_everything_can_be_broadcast(changes: dict[str, Any]) -> None:
    """NCCL sends what is contiguous, in channels-last order too; gloo would send anything."""
    model = FML(replace(SMALL, **changes))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last), name


def run_pieces(folder: Path) -> None:
    """In each process: writes the results, then sees work done once, work that fails, and the death of another."""
    with World.start("cpu") as world:
        save_file({name: t.contiguous() for name, t in pieces(world).items()}, folder / f"{world.rank}.safetensors")
        drawn = nn.BatchNorm1d(3)
        nn.init.constant_(drawn.weight, world.rank + 1)
        world.broadcast(drawn)
        assert torch.equal(drawn.weight, torch.ones(3))
        world.once(lambda: (folder / "once").write_text(str(world.rank)))
        assert (folder / "once").read_text() == "0"
        try:
            world.once(lambda: 1 / 0)
        except (ZeroDivisionError, ChildProcessError) as error:
            (folder / f"failed-{world.rank}").write_text(type(error).__name__)
        world.barrier()
        if world.rank == 1:
            raise RuntimeError("this process fails")
        world.barrier()
        (folder / "survived").touch()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what `run_pieces` writes; one of them failed in the end."""
    folder = tmp_path_factory.mktemp("pieces")
    done = launch(__file__, folder)
    assert done.returncode != 0 and "this process fails" in done.stderr, done.stderr
    return folder


@pytest.mark.parametrize(
    ("part", "tolerance"),
    [("float64", 1e-11), ("float32", 2e-4), ("encoder", 2e-5), ("factors", 1e-6), ("means", 1e-6)],
)
def test_shares_of_a_batch_give_what_the_whole_gives(folder: Path, part: str, tolerance: float) -> None:
    expected = pieces(ALONE)
    ranks = [load_file(folder / f"{rank}.safetensors") for rank in range(2)]
    assert ranks[0].keys() == ranks[1].keys() == expected.keys()
    for name in (name for name in expected if name.startswith(f"{part}/")):
        if "/rows." in name:
            found = torch.cat([rank[name] for rank in ranks])
        else:
            found = ranks[0][name]
            assert torch.equal(found, ranks[1][name]), f"{name} is not the same in both processes"
        # Sums are rounded as their terms are, also where these cancel; the encoder's codes are ten times as far from 0
        # as they spread, and normalised: 2^-24 * 10 * some 30 roundings.
        limit = tolerance * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(found, expected[name], rtol=0, atol=limit, msg=lambda m, name=name: f"{name}: {m}")


def test_what_the_main_process_does_once(folder: Path) -> None:
    assert (folder / "once").read_text() == "0"
    assert (folder / "failed-0").read_text() == "ZeroDivisionError"
    assert (folder / "failed-1").read_text() == "ChildProcessError"


def test_a_process_that_fails_takes_the_others_along(folder: Path) -> None:
    assert not (folder / "survived").exists()


def test_alone_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    encoder = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    done = []
    with World.start("cpu") as world:
        assert (world.rank, world.size, world.device.type, world.main) == (0, 1, "cpu", True)
        world.require_equal_shares(3)
        assert world.wrap(encoder) is encoder
        world.once(lambda: done.append(1))
        world.broadcast(encoder)
        world.barrier()
        assert not torch.distributed.is_initialized() and done == [1]


def test_bad_input_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="batch 3 does not divide among 2 processes"):
        World(0, 2, torch.device("cpu")).require_equal_shares(3)
    with pytest.raises(ValueError, match="--batch 1: batch normalisation needs two subjects"):
        World(0, 1, torch.device("cpu")).require_equal_shares(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ValueError, match="several processes need a GPU each"):
        World.start("cpu")
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(ValueError, match="^factors "):
        World(0, 2, torch.device("cpu")).gather_factors(LowRankAdam(nn.Parameter(torch.zeros(2, 3))))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK is not; start several processes with torchrun"):
        World.start("cpu")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="process 1 of this machine has no GPU: there are 1"):
        World.start("cuda")
    with pytest.raises(ValueError, match="one GPU for 2 processes"):
        World.start("cuda:0")


if __name__ == "__main__":
    work(run_pieces)
