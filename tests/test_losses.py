import torch

from fmlfast.losses import displacement_loss, expression_loss, landmark_loss, membrane_loss

EDGES = torch.tensor([[0, 1], [1, 2]])


def test_landmarks_weigh_the_jaw_and_the_confidence() -> None:
    detected, confidence = torch.zeros(1, 66, 2), torch.ones(1, 66)
    inner, jaw = detected.clone(), detected.clone()
    inner[0, 30, 0] = jaw[0, 3, 0] = 2.0  # 2 px of 100 px are 2%
    expected = (5**0.5 - 1) / 66
    torch.testing.assert_close(landmark_loss(inner, detected, confidence, 100, 0.25), torch.tensor([expected]))
    torch.testing.assert_close(landmark_loss(jaw, detected, confidence, 100, 0.25), torch.tensor([expected / 4]))
    torch.testing.assert_close(landmark_loss(inner, detected, confidence / 2, 100, 1), torch.tensor([expected / 2]))


def test_membrane_is_blind_to_translation() -> None:
    t = torch.tensor([[[0.0, 0, 0], [1, 2, 2], [1, 2, 2]]])
    torch.testing.assert_close(membrane_loss(t, EDGES), torch.tensor([4.5]))
    torch.testing.assert_close(membrane_loss(t + 5, EDGES), torch.tensor([4.5]))
    torch.testing.assert_close(displacement_loss(t), torch.tensor([6.0]))


def test_priors_are_sums_of_squares() -> None:
    torch.testing.assert_close(expression_loss(torch.tensor([[1.0, 2.0]]), 0.5), torch.tensor([20.0]))
