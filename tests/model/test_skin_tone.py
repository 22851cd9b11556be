import torch

from fmlfast.model.skin_tone import _assets, estimate_skin_tone, regression_terms, skin_tone_deviation

MASK = torch.ones(1, 4, dtype=torch.bool)


def _features(brightness: float) -> torch.Tensor:
    """Features of an average picture whose face is `brightness` standard deviations from the mean, [1, 4, N]."""
    known = _assets(torch.device("cpu"))
    features = known["center"].clone()
    features[:3] += brightness * known["scale"][:3]
    return features.expand(1, 4, -1).clone()


def test_a_brighter_face_in_the_same_picture_has_lighter_skin() -> None:
    tones = [float(estimate_skin_tone(_features(level), MASK).mean()) for level in (-1.5, 0.0, 1.5)]
    assert tones[0] + 0.1 < tones[1] and tones[1] + 0.1 < tones[2]


def test_padding_frames_do_not_count() -> None:
    features = _features(0.5)
    features[:, 2:] = 7.0
    mask = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(estimate_skin_tone(features, mask), estimate_skin_tone(features[:, :2], mask[:, :2]))


def test_pictures_unlike_any_synthetic_one_stay_within_the_tones_of_people() -> None:
    known = _assets(torch.device("cpu"))
    for level in (-100.0, 100.0):
        tone = estimate_skin_tone(_features(level), MASK)
        assert bool((tone >= known["range"][0]).all()) and bool((tone <= known["range"][1]).all())


def test_more_frames_leave_less_doubt() -> None:
    one = skin_tone_deviation(torch.tensor([[True, False, False, False]]))
    four = skin_tone_deviation(MASK)
    assert 0.05 < float(four) < float(one) < 1.0


def test_terms_hold_a_constant_the_features_and_products_of_the_face_s_three() -> None:
    features = torch.arange(5.0)[None]
    terms = regression_terms(features, torch.zeros(5), torch.ones(5))
    torch.testing.assert_close(terms[0], torch.tensor([1.0, 0, 1, 2, 3, 3, 0, 0, 0, 1, 2, 4]))
