"""Ask models that vLLM runs: one engine for all cells of a base model, whose adapters are swapped between cells.

A job starts an engine for its own cell. Before it ends, it also asks the other cells that the workflow wants, that are
trained and that nobody is asking: their own jobs then find the replies. So on each GPU an engine starts about once,
with no server to look after. Cells after full fine-tuning have weights of their own, and so an engine each.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from qtuning.errors import UserError
from qtuning.evaluation.inputs import is_evaluated, read_inputs
from qtuning.evaluation.run import check_weights, folders_of, ready_tasks, trained_template, why_skipped, work_through
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.ids import ResultPaths, cell_id, evaluation_id, model_id
from qtuning.files import file_digest, read_json, write_json
from qtuning.gpus.lease import needed_share
from qtuning.locks import exclusive_if_free
from qtuning.manifest import read_sealed, write_sealed

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of LoRA that a vLLM engine can be made for; it takes all adapters up to its own."""
ENVIRONMENT = {
    # the engine in the process that we start: it dies with it, and schedules the same requests in the same way
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",  # the weights are in a folder
}


class Engine:
    """A vLLM engine in a process of its own (vllm_engine.py), under `python`, the interpreter that has vLLM."""

    def __init__(self, python: Path, settings: dict[str, Any]) -> None:
        """Start it and wait until it is ready. UserError where it has no vLLM, or ends."""
        looked = [str(python), "-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"]
        if not python.is_file() or subprocess.run(looked, check=False).returncode:
            raise UserError(
                f"evaluation.backend = 'vllm': {python} has no vLLM; `make vllm-env` makes an environment with it, or "
                "name the Python of one with --config vllm=PYTHON"
            )
        reading, writing = os.pipe()
        program = Path(__file__).with_name("vllm_engine.py")
        self._process = subprocess.Popen(
            [str(python), str(program), json.dumps(settings | {"answers": writing})],
            stdin=subprocess.PIPE, stdout=sys.stderr.fileno(), pass_fds=[writing], text=True,
            env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        os.close(writing)
        self._answers = os.fdopen(reading, encoding="utf-8")
        self._wait()

    def reply(self, cell: str, adapter: Path | None, out: Path) -> None:
        """Answer all questions under the adapter of a cell, and write the replies to `out`."""
        assert self._process.stdin is not None
        line = {"cell": cell, "adapter": None if adapter is None else str(adapter.absolute()), "out": str(out)}
        with contextlib.suppress(BrokenPipeError):  # an engine that has ended says nothing below
            print(json.dumps(line), file=self._process.stdin, flush=True)
        self._wait()

    def _wait(self) -> None:
        if not self._answers.readline():
            status = self._process.wait()
            raise UserError(
                f"vLLM's process has ended with status {status}; what it said is above. If GPU memory was short: lower "
                "evaluation.max_length, or wait until nothing else uses the GPU"
            )

    def close(self) -> None:
        """End it, and free its GPU."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._answers.close()


def ask_cell(
    cell: Cell,
    evaluation: Evaluation,
    paths: ResultPaths,
    *,
    data_dir: Path | None,
    python: Path,
    beside: Iterable[Cell] = (),
    hold_gpu: Callable[[], None] = lambda: None,
) -> None:
    """Write what the weights of a cell reply to an evaluation (`paths.replies`), for `evaluate_cell` to mark, and then
    that they did (`paths.asked`). Nothing is asked where there are scores already, or replies.

    The caller holds the cell's lock of this evaluation. beside: cells that the same evaluation is wanted of. hold_gpu:
    called before the GPU is needed. Killed, it goes on with the cells that are left. UserError where the cell is not
    trained, or vLLM cannot run it.
    """
    if (reason := why_skipped(cell, paths)) is not None:
        write_json(paths.asked(cell, evaluation), {"skipped": reason})
        return
    inputs = read_inputs(cell, evaluation, paths, data_dir)
    if not _answered(cell, evaluation, paths) and not is_evaluated(paths.evaluation(cell, evaluation), inputs):
        others = [o for o in beside if _shares_engine(cell, o) and _wanted(o, evaluation, paths)]
        with _engine(cell, evaluation, paths, data_dir, python, others, hold_gpu) as ask:
            ask(cell)
            for other in others:
                with exclusive_if_free(paths.lock(f"{cell_id(other)}-{evaluation_id(evaluation)}")) as free:
                    if free and _wanted(other, evaluation, paths):
                        ask(other)
    write_json(paths.asked(cell, evaluation), {"weights": _weights(cell, paths)})


@contextlib.contextmanager
def _engine(
    cell: Cell,
    evaluation: Evaluation,
    paths: ResultPaths,
    data_dir: Path | None,
    python: Path,
    others: list[Cell],
    hold_gpu: Callable[[], None],
) -> Iterator[Callable[[Cell], None]]:
    """A function that asks a cell and keeps its replies, while an engine runs for it."""
    from qtuning.evaluation.replies import AskedModel

    base, _ = folders_of(cell, paths)
    tasks = ready_tasks(evaluation, data_dir, paths.hub)
    model = AskedModel(base, evaluation, trained_template(cell))
    work_through(model, tasks, evaluation)
    with tempfile.TemporaryDirectory(prefix="qtuning-vllm-") as name:
        folder = Path(name)
        write_json(folder / "questions.json", vars(model.questions))
        adapters = [folders_of(each, paths)[1] for each in (cell, *others)]
        settings = engine_settings(base, evaluation, model.questions.room, [a for a in adapters if a is not None])
        hold_gpu()  # not while questions are read and tokenised
        engine = Engine(python, {"engine": settings, "questions": str(folder / "questions.json")})

        def ask(asked: Cell) -> None:
            check_weights(asked, paths)
            engine.reply(cell_id(asked), folders_of(asked, paths)[1], folder / "replies.json")
            stamp = {"questions": model.questions.digest, "weights": _weights(asked, paths)}
            write_sealed(paths.replies(asked, evaluation), read_json(folder / "replies.json") | stamp)

        try:
            yield ask
        finally:
            engine.close()


def engine_settings(base: Path, evaluation: Evaluation, room: int, adapters: Iterable[Path]) -> dict[str, Any]:
    """What vLLM's `LLM` is made with, for all of these adapters. room: most tokens of a sequence.

    UserError for an adapter that vLLM does not take.
    """
    settings: dict[str, Any] = {
        "model": str(base.absolute()),
        "dtype": evaluation.dtype,
        "max_model_len": room,
        "max_num_seqs": evaluation.batch_size,
        "seed": 0,
        "load_format": "safetensors",
        "generation_config": "vllm",  # greedy, whatever the model's own file says
        "enable_prefix_caching": True,  # questions about one passage share its beginning
        # where likelihoods are asked for, logits of every token of a step are held, which vLLM does not count
        "max_num_batched_tokens": 2048,
        # vLLM refuses to start where less is free, and a lease looks for no more than `needed_share`
        "gpu_memory_utilization": min(0.85, needed_share() or 0.85),
    }
    configs = {folder: read_json(folder / "adapter_config.json") for folder in adapters}
    targets = sorted({name for config in configs.values() for name in config["target_modules"]})
    for folder, config in configs.items():
        if config["r"] > RANKS[-1] or "lm_head" in config["target_modules"]:
            found = f"rank {config['r']} on {', '.join(sorted(config['target_modules']))}"
            raise UserError(f"{folder}: {found}: vLLM takes ranks up to {RANKS[-1]}, not on lm_head; use backend: hf")
    if configs:
        rank = max(config["r"] for config in configs.values())
        settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(r for r in RANKS if r >= rank)}
        # without it the head is wrapped, too, whose LoRA kernels count sampled tokens only and not those of prompts
        settings["lora_target_modules"] = targets
    return settings


def _shares_engine(cell: Cell, other: Cell) -> bool:
    """Whether two cells are one base model with other adapters, or none, and are asked the same."""
    full = any(each.training is not None and each.training.tuning == "full" for each in (cell, other))
    same_end = (trained_template(cell) == "chat") == (trained_template(other) == "chat")
    return not full and same_end and model_id(cell.model) == model_id(other.model) and cell_id(cell) != cell_id(other)


def _wanted(cell: Cell, evaluation: Evaluation, paths: ResultPaths) -> bool:
    """Whether a cell has weights, and has not replied yet."""
    scores = paths.evaluation(cell, evaluation) / "scores.json"
    if scores.exists() or _answered(cell, evaluation, paths):
        return False
    try:
        return _weights_file(cell, paths).is_file() and why_skipped(cell, paths) is None
    except UserError:
        return False


def _answered(cell: Cell, evaluation: Evaluation, paths: ResultPaths) -> bool:
    """Whether replies of its present weights are kept."""
    kept = paths.replies(cell, evaluation)
    try:
        return kept.is_file() and bool(read_sealed(kept, "asking again")["weights"] == _weights(cell, paths))
    except UserError as error:  # damaged
        print(error, file=sys.stderr)
        return False


def _weights_file(cell: Cell, paths: ResultPaths) -> Path:
    return paths.model(cell) / "model.json" if cell.training is None else paths.cell(cell) / "weights.sha256"


def _weights(cell: Cell, paths: ResultPaths) -> str:
    """What names the weights of a cell."""
    return file_digest(_weights_file(cell, paths))
