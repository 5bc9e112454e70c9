"""bitsandbytes, which only 4-bit weights and 8-bit moments need: `pip install 'qtuning[bits]'`."""

import importlib
from typing import Any

from qtuning.errors import UserError


def bitsandbytes(key: str) -> Any:
    """The module. key: what asks for it. UserError where it is not installed."""
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError:
        raise UserError(f"{key}: needs bitsandbytes; pip install 'qtuning[bits]'") from None
