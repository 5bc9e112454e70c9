"""The verdicts on a pool: through a checkpoint and back."""

import torch
from torch import Tensor

from qtuning.train.decision import Verdicts


def test_a_pool_comes_back_from_its_tensors() -> None:
    def pool(weights: Tensor | None) -> Verdicts:
        small = torch.tensor([0, 2, 4], dtype=torch.int8)
        scores = torch.rand(3, dtype=torch.float64)
        sizes = torch.tensor([0, 5, 7])
        return Verdicts(small, small, small > 2, torch.rand(9) > 0.5, sizes, scores, scores + 1, weights)

    for weights in (None, torch.ones(3, dtype=torch.float64)):
        original = pool(weights)
        restored = Verdicts.restored(original.tensors() | {"pruner.losses": torch.zeros(1)})
        assert restored is not None and restored.tensors().keys() == original.tensors().keys()
        assert all(torch.equal(tensor, restored.tensors()[name]) for name, tensor in original.tensors().items())
        assert (restored.weights is None) == (weights is None)
    assert Verdicts.restored({"pruner.losses": torch.zeros(1)}) is None
