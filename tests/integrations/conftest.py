"""Models for the trainers."""

import copy
from typing import Any

import pytest


@pytest.fixture
def llama(tiny_llama: Any) -> Any:
    """A copy of the tiny Llama, to train."""
    return copy.deepcopy(tiny_llama)
