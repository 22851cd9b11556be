import torch

from fmlfast.evaluation.tone_groups import GROUPS, tone_groups


def test_errors_are_averaged_by_thirds_of_people() -> None:
    luminance = torch.tensor([0.5, 0.1, 0.1, 0.3, 0.4, 0.2, 0.6])
    errors = {"frames_1": {"tone_log": luminance.double() * 10}}
    groups = tone_groups(errors, luminance)
    assert tuple(groups) == GROUPS
    means = [groups[name]["frames_1"]["tone_log"] for name in GROUPS]
    torch.testing.assert_close(torch.tensor(means), torch.tensor([4 / 3, 3.5, 5.5]))


def test_fewer_than_three_people_have_no_groups() -> None:
    assert tone_groups({"frames_1": {"tone_log": torch.ones(4)}}, torch.tensor([0.1, 0.1, 0.4, 0.4])) == {}
