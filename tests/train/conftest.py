"""Samples that the tests of training share."""

import oracles
import pytest
from loops import SHAPES

from qtuning.data.samples import Sample


@pytest.fixture(scope="session")
def samples() -> list[Sample]:
    """18 samples of different lengths."""
    return oracles.random_samples(SHAPES, seed=0)
