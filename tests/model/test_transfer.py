"""Several tensors in one copy: what comes out is what went in."""

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qtuning.model import batch
from qtuning.model.batch import pack, pack_whole
from qtuning.model.transfer import joined, parted, to_device, to_host

DTYPES = [torch.int64, torch.int32, torch.float64, torch.float32, torch.bfloat16, torch.bool, torch.uint8]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=6),
    st.integers(0, 99),
    st.booleans(),
)
def test_parted_is_the_inverse_of_joined(kinds: list[tuple[torch.dtype, list[int]]], seed: int, given: bool) -> None:
    """Any dtypes and shapes, empty and 0-dimensional ones too, in any order."""
    rng = torch.Generator().manual_seed(seed)
    tensors = [(torch.randn(shape, generator=rng) * 9).to(dtype) for dtype, shape in kinds]
    size = sum(tensor.nbytes for tensor in tensors)
    buffer = joined(tensors, torch.empty(size, dtype=torch.uint8) if given else None)
    assert buffer.shape == (size,)
    for tensor, found in zip(tensors, parted(buffer, tensors), strict=True):
        assert found.dtype == tensor.dtype and found.shape == tensor.shape
        assert torch.equal(found, tensor)


def test_a_tensor_that_is_not_contiguous_is_joined_in_its_order() -> None:
    whole = torch.arange(6, dtype=torch.int32).reshape(2, 3).T
    (found,) = parted(joined([whole]), [whole])
    assert torch.equal(found, whole)


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.ones(3)
    assert to_device([tensor], torch.device("cpu"))[0] is tensor and to_host([tensor])[0] is tensor


def test_a_packed_batch_comes_whole_through_one_buffer() -> None:
    """As it goes to a GPU; `starts` says where the segments begin."""
    packed = pack(oracles.random_samples([(3, 9), (1, 1), (4, 14)], seed=0), weights=[1.0, 0.5, 2.0])
    assert packed is not None and packed.starts is None, "on a CPU lengths are enough"
    tensors = [value for value in vars(packed).values() if isinstance(value, Tensor)]
    assert len(tensors) == 5
    for tensor, found in zip(tensors, parted(joined(tensors), tensors), strict=True):
        assert torch.equal(tensor, found) and found.dtype == tensor.dtype
    assert packed.to(torch.device("cpu")) == packed and packed.starts_of(1) is None


def test_on_a_gpu_a_batch_says_where_its_segments_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_whole(oracles.random_samples([(3, 9), (1, 1), (4, 14)], seed=0), "response")
    monkeypatch.setattr(batch, "to_device", lambda tensors, device: tensors)
    there = packed.to(torch.device("cuda:0"))
    assert there.starts is not None and there.starts.dtype == torch.int32
    assert there.starts.tolist() == [0, 12, 14, 32] and there.lengths == (12, 2, 18)
    alone = there.starts_of(2)
    assert alone is not None and alone.tolist() == [0, 18]
