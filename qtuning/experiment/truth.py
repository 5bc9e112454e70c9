"""What is known of planted samples: their kinds. The control pruners (pruners/controls.py) choose by it."""

from typing import Literal, get_args

Kind = Literal["clean", "misconception", "redundant", "ambiguous", "noise"]
"""What a planted sample is: right and new; right where pretraining told otherwise; right and known; of several right
answers one; wrong."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds. Their codes (base.Candidates.kinds) are their places here."""
