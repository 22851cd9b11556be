"""Expressions compared by name, on numbers written out."""

import pytest
import torch

from fmlfast.evaluation.expressions import ExpressionTable

NAMES = ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "cheekPuff")
TRUTH = torch.tensor([[0.0, 0.6, 0.4, 0.0], [0.4, 0.0, 0.0, 0.0]])


def test_errors_are_means_over_frames_and_sides() -> None:
    collected = ExpressionTable(NAMES)
    collected.add("exact", TRUTH[:1], TRUTH[:1])
    collected.add("exact", TRUTH[1:], TRUTH[1:])
    collected.add("half", 0.5 * TRUTH, TRUTH)
    table = collected.table()
    assert table["commonest"] == list(table["by_name"]) == ["eyeBlink", "jawOpen", "cheekPuff"]
    blink, puff = table["by_name"]["eyeBlink"], table["by_name"]["cheekPuff"]
    assert blink["activity"] == pytest.approx(0.25) and blink["active"] == 0.5
    assert blink["exact"]["error"] == 0.0 and blink["exact"]["correlation"] == pytest.approx(1.0)
    assert blink["half"]["error"] == pytest.approx(0.125) and blink["half"]["active_error"] == pytest.approx(0.25)
    assert blink["half"]["correlation"] == pytest.approx(1.0)
    assert puff["half"] == {"error": 0.0, "active_error": None, "correlation": None}
    assert table["mean_error"]["half"] == pytest.approx((0.125 + 0.1 + 0) / 3)
    assert table["mean_active_error"]["half"] == pytest.approx((0.25 + 0.2) / 2)


def test_only_ten_names_count_as_common() -> None:
    collected = ExpressionTable(tuple(f"unit{i}" for i in range(12)))
    collected.add("zero", torch.zeros(3, 12), torch.arange(12.0).expand(3, 12) / 12)
    table = collected.table()
    assert table["commonest"] == [f"unit{i}" for i in range(11, 1, -1)]
    assert table["mean_error"]["zero"] == pytest.approx(sum(range(2, 12)) / 120)
