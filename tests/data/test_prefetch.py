from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from fmlfast.data.augment import Batch, draw
from fmlfast.data.frames import Frames
from fmlfast.data.prefetch import PackedBatch, Prefetcher


def make_batch(frames: Frames, step: int) -> Batch:
    images = (frames.images[:, :3, :, :33, :33] * 255).to(torch.uint8)  # an odd number of bytes
    mask = torch.tensor([[True, True, False], [True, True, True]])
    packed = replace(frames.only(range(3)), images=images, mask=mask)
    return Batch(packed, draw(step, [step, 7], 3))


def assert_equal(a: Batch, b: Batch) -> None:
    for x, y in zip(a.tensors(), b.tensors(), strict=True):
        assert x.dtype == y.dtype and torch.equal(x.cpu(), y.cpu())


def test_packing_keeps_a_batch(frames: Frames) -> None:
    batch = make_batch(frames, 0)
    packed = PackedBatch.of(batch)
    assert_equal(packed.batch(), batch)
    assert len({tensor.untyped_storage().data_ptr() for tensor in packed.batch().tensors()}) == 1


def test_batches_come_in_order_on_the_device(frames: Frames, device: str) -> None:
    expected = [make_batch(frames, step) for step in range(5)]
    arrived = list(Prefetcher(iter(expected), device))
    assert len(arrived) == 5
    for a, b in zip(arrived, expected, strict=True):
        assert_equal(a, b)
        assert {tensor.device.type for tensor in a.tensors()} == {device}


def test_errors_of_the_loader_surface(frames: Frames, device: str) -> None:
    def broken() -> Iterator[Batch]:
        for step in range(4):
            yield make_batch(frames, step)
        raise ValueError("sample x is damaged")

    with pytest.raises(ValueError, match=r"^sample x is damaged$"):
        for _ in Prefetcher(broken(), device):
            pass


def test_stopping_early_ends_the_loader(frames: Frames, device: str) -> None:
    ended = []

    def endless() -> Iterator[Batch]:
        try:
            while True:
                yield make_batch(frames, 0)
        finally:
            ended.append(True)

    source = endless()
    batches = iter(Prefetcher(source, device))
    next(batches)
    del batches, source
    assert ended == [True]


@pytest.mark.gpu
def test_a_batch_outlives_the_ones_after_it(frames: Frames) -> None:
    """The step's stream is late: memory must not be given to later copies before it has read the batch."""
    expected = [make_batch(frames, step) for step in range(30)]
    sums = []
    for batch in Prefetcher(iter(expected), "cuda"):
        torch.cuda._sleep(20_000_000)  # cycles, some 10 ms
        sums.append(batch.frames.images.double().sum() + batch.draws.noise.double().sum())
        del batch
    for value, batch in zip(sums, expected, strict=True):
        torch.testing.assert_close(
            value.cpu(), batch.frames.images.double().sum() + batch.draws.noise.double().sum(), rtol=1e-9, atol=1e-4
        )
