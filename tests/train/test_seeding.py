"""Dropout draws the same numbers as after torch's own way to seed."""

import torch

from qtuning.train.seeding import seed_device


def test_a_seeded_device_draws_as_after_manual_seed() -> None:
    torch.manual_seed(2**62 + 3)
    expected = torch.rand(5)
    seed_device(1, torch.device("cpu"))
    assert not torch.equal(torch.rand(5), expected)
    seed_device(2**62 + 3, torch.device("cpu"))
    assert torch.equal(torch.rand(5), expected)
