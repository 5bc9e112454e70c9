"""A job that notes how far it has come and ends where its work begins; run by startup.py in a process of its own.

`python -m benchmarks.noting STARTED train CELL MODEL SAMPLES OUT STATE` or `... evaluate CELL EVALUATION RESULTS`,
where STARTED is the time at which the process was asked for. Prints {part: [wall seconds, processor seconds]} as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

Note = Callable[[str], None]


def main() -> None:
    """Take the notes; imports stand where they are measured."""
    last = float(sys.argv[1]), 0.0
    parts: dict[str, tuple[float, float]] = {}

    def note(part: str) -> None:
        nonlocal last
        now = time.time(), time.process_time()
        parts[part] = now[0] - last[0], now[1] - last[1]
        last = now

    note("interpreter")
    import torch

    torch.set_num_threads(1)
    note("import torch")
    try:
        {"train": _train, "evaluate": _evaluate}[sys.argv[2]](note, sys.argv[3:])
    except _Reached as reached:
        note(str(reached))
    print(json.dumps(parts))


class _Reached(Exception):
    """The work has begun; the message is the name of the part that led here."""


def _train(note: Note, paths: list[str]) -> None:
    import qtuning.train.__main__

    note("import qtuning.train: transformers, accelerate")
    from qtuning.train.step import TrainingLoop

    step = TrainingLoop.step

    def first(self: Any, window: Any) -> NoReturn:
        note("set-up: samples, model, check against its own forward, optimizer")
        step(self, window)
        raise _Reached("first update")

    TrainingLoop.step = first  # type: ignore[method-assign]
    keys = ("cell", "model", "samples", "out", "state")
    options = [text for key, path in zip(keys, paths, strict=True) for text in (f"--{key}", path)]
    qtuning.train.__main__.main([*options, "--tracking", "disabled"])


def _evaluate(note: Note, paths: list[str]) -> None:
    import qtuning.evaluation.model
    import qtuning.evaluation.run

    note("import lm-eval and transformers")
    from qtuning.evaluation.run import evaluate_cell
    from qtuning.experiment.cell import Cell, Evaluation
    from qtuning.experiment.ids import ResultPaths
    from qtuning.files import read_json

    def noted(module: ModuleType, function: str, part: str) -> None:
        inner = getattr(module, function)

        def call(*arguments: Any) -> Any:
            result = inner(*arguments)
            note(part)
            return result

        setattr(module, function, call)

    def first(*_: Any, **__: Any) -> NoReturn:
        raise _Reached("requests made")

    noted(qtuning.evaluation.run, "load_tasks", "benchmarks: tasks and questions")
    noted(qtuning.evaluation.model, "load_model", "model and tokenizer, and the imports they bring")
    for request in ("loglikelihood", "generate_until"):
        setattr(qtuning.evaluation.model.EvaluatedModel, request, first)
    cell = Cell.model_validate(read_json(Path(paths[0])))
    evaluation = Evaluation.model_validate(read_json(Path(paths[1])))
    evaluate_cell(cell, evaluation, ResultPaths(Path(paths[2])), data_dir=None)


if __name__ == "__main__":
    main()
