"""Transfer between display and linear RGB."""

import pytest
import torch

from fmlfast.color import linear_to_srgb, srgb_to_linear


def test_the_curves_of_the_standard_and_back() -> None:
    values = torch.linspace(0, 1, 1001, dtype=torch.float64)
    expected = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    torch.testing.assert_close(srgb_to_linear(values), expected)
    torch.testing.assert_close(linear_to_srgb(expected), values, rtol=0, atol=1e-4)


@pytest.mark.parametrize("convert", [linear_to_srgb, srgb_to_linear])
def test_bytes_are_refused(convert) -> None:
    with pytest.raises(ValueError, match="got torch.uint8; divide 8-bit values by 255"):
        convert(torch.tensor([0, 128, 255], dtype=torch.uint8))
