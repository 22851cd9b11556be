"""Hair, caps and scarves."""

from dataclasses import replace

import numpy as np

from fmlfast.data.synthetic.hair import hair, random_style

BLACK, SKIN = np.full(3, 0.02), np.array([0.4, 0.25, 0.18])


def test_some_people_wear_a_cap_or_a_scarf_and_some_have_no_hair() -> None:
    styles = [random_style(np.random.default_rng([4, seed]), 0.6, male=True) for seed in range(400)]
    covered = [style for style in styles if style is not None and style.cloth is not None]
    assert 6 < len(covered) < 40 and 20 < styles.count(None) < 120
    assert min(style.side_end for style in covered) < -100.0 < 0.0 < max(style.side_end for style in covered)


def test_cloth_has_its_own_color_and_is_smoother_than_hair() -> None:
    style = random_style(np.random.default_rng(0), 0.2, male=False)
    assert style is not None
    red = np.array([0.4, 0.05, 0.05])
    strands = hair(np.random.default_rng(1), replace(style, cloth=None), BLACK, SKIN)
    cloth = hair(np.random.default_rng(1), replace(style, cloth=red), BLACK, SKIN)
    np.testing.assert_allclose(cloth.colors / cloth.colors[:, :1], np.tile(red / red[0], (len(cloth.colors), 1)))
    roughness = [np.log(part.colors[:, 0]).std() for part in (cloth, strands)]
    assert roughness[0] < roughness[1]
