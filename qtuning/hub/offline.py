"""Jobs that never ask the hub. Imports the standard library only: libraries read these variables when imported."""

import os

# What runs on compute nodes, which often have no network. Hundreds of such jobs would also meet the hub's rate limit.
JOBS = frozenset({
    *("base-model", "prepare", "train", "ask", "evaluate", "influence", "localise", "token-kinds"),
})  # fmt: skip
VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def go_offline() -> None:
    """Forbid the libraries of Hugging Face to use the network, here and in all processes that are started from here.

    Without effect on a library that this process has imported already.
    """
    os.environ.update(dict.fromkeys(VARIABLES, "1"))
