"""The process that imports pruners of the user's own for another one (apart.py).

A line in is a question, a line out its answer; both are JSON. What the pruners print goes to the error stream.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any

from qtuning.errors import UserError
from qtuning.experiment.lookup import checked_options, find_pruner, kinds_of


def main() -> None:
    """Answer until the input ends."""
    if sys.platform == "linux":  # a module that hangs reads no end of its input
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = {"found": _answer(**json.loads(line))}
        except UserError as error:
            answer = {"refused": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(name: str, kind: Any = None, options: dict[str, Any] | None = None, where: str = "") -> Any:
    """What there is to know of a pruner; with options, these as a cell has them; without a kind, its kinds."""
    if kind is None:
        return kinds_of(name)
    info = find_pruner(name, kind)
    if options is not None:
        return checked_options(info, options, kind, where)
    defaults = info.options().model_dump(mode="json", by_alias=True)
    return {
        "function": info.function,
        "scope": info.scope,
        "needs": sorted(info.needs),
        "version": info.version,
        "label": info.label,
        "options": {
            key: (field.alias or key, defaults[field.alias or key]) for key, field in info.options.model_fields.items()
        },
    }


if __name__ == "__main__":
    main()
