"""Stages that work beside one another: order, errors, and no stage far ahead."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fmlfast.reconstruction.track.threads import ahead, mapped, single_threads


def test_items_come_in_order() -> None:
    assert list(ahead(range(100))) == list(range(100))
    assert list(mapped(lambda n: n * n, ahead(range(100)))) == [n * n for n in range(100)]
    assert list(ahead([])) == [] and list(mapped(str, [])) == []


def test_an_error_is_raised_where_the_items_are_used() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("the second is missing")

    items = ahead(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second is missing"):
        next(items)

    def fails(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(mapped(fails, range(9)))


def test_a_stage_waits_for_those_that_use_it() -> None:
    taken: list[int] = []

    def count() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    items = ahead(count(), depth=4)
    for _ in range(3):
        next(items)
    threads = threading.active_count()
    items.close()
    assert len(taken) <= 3 + 4 + 2
    assert threading.active_count() == threads - 1
    taken.clear()
    results = mapped(lambda item: item, count())
    next(results)
    assert len(taken) <= 14
    results.close()


def test_torch_has_one_thread_for_a_while() -> None:
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError), single_threads():
            assert torch.get_num_threads() == 1
            raise RuntimeError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
