"""Evaluate a cell: all its benchmarks in one process. Every item's score is kept, for statistics over items.

Writes `items.parquet` and, last, `scores.json` into a folder that appears whole or not at all (docs/results.md).
"""

import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars

from qtuning.data.chat import TODAY, writes_date
from qtuning.data.items import cluster_of
from qtuning.data.sources import local_folder
from qtuning.errors import UserError
from qtuning.evaluation.draw import drawn_items
from qtuning.evaluation.inputs import is_evaluated, read_inputs
from qtuning.evaluation.likelihoods import Likelihood, likelihoods_of
from qtuning.evaluation.tasks import load_tasks, max_new_tokens, shots_of
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Cell, Evaluation, Template
from qtuning.experiment.finished import WEIGHTS, check_outputs, marker_of
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json, evaluation_id
from qtuning.files import atomic_path, write_text
from qtuning.hub.fetch import commit_of
from qtuning.hub.offline import go_offline
from qtuning.hub.repositories import repository_of_benchmark
from qtuning.manifest import FILES, digests_of, read_sealed, write_sealed
from qtuning.model.load import model_path, verified_model
from qtuning.model.out_of_memory import telling
from qtuning.progress import Reporter, beside

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

    from qtuning.evaluation.model import EvaluatedModel

ITEMS = "items.parquet"
LoggedSample = dict[str, Any]  # what lm-eval logs of one item under one filter


def evaluate_cell(cell: Cell, evaluation: Evaluation, paths: ResultPaths, *, data_dir: Path | None) -> None:
    """Evaluate the trained weights of a cell, its adapter, or the base model itself (zero-shot).

    Nothing to do where there are scores of these very inputs.

    A cell that diverged has no weights to evaluate: its scores are recorded as skipped, with the reason, so that
    tables show a hole instead of the workflow stopping. Raises UserError where the cell is not trained.
    """
    folder, out, file = paths.cell(cell), paths.evaluation(cell, evaluation), paths.replies(cell, evaluation)
    if cell.training is None:
        write_text(folder / "cell.json", cell_json(cell) + "\n")
    elif not (folder / "weights.sha256").is_file():
        raise UserError(f"{folder}: no trained weights; train the cell first")
    inputs = read_inputs(cell, evaluation, paths, data_dir)
    if is_evaluated(out, inputs):
        file.unlink(missing_ok=True)  # left by a kill
        print(f"{folder.name}: already evaluated")
        return
    if (reason := why_skipped(cell, paths)) is not None:
        skipped = _identity(cell_id(cell), evaluation) | {"status": "skipped", "reason": reason, "benchmarks": {}}
        skipped["inputs"] = inputs
        write_scores(out, items_table({}), skipped)
        return
    base, adapter = folders_of(cell, paths)
    replies = None
    if evaluation.backend == "vllm":
        if not file.is_file():
            raise UserError(f"{file}: no such file; `qtuning ask` makes it (docs/evaluation.md)")
        replies = read_sealed(file, f"delete {file} and run again")
        if replies["weights"] != inputs.get("weights", replies["weights"]):
            raise UserError(f"{file}: replies of other weights of {folder.name}; delete it and run again")
    else:
        check_weights(cell, paths)
    evaluate_model(
        cell_id=cell_id(cell), base=base, adapter=adapter, evaluation=evaluation, out=out, data_dir=data_dir,
        hub=paths.hub, replies=replies, template=trained_template(cell), inputs=inputs,
        progress=beside(paths.lock(f"{cell_id(cell)}-{evaluation_id(evaluation)}")),
    )  # fmt: skip
    file.unlink(missing_ok=True)


def trained_template(cell: Cell) -> Template:
    """The template that the weights of a cell were trained with; `plain` where there was no training."""
    return "plain" if cell.zero_shot else cell.model.template


def why_skipped(cell: Cell, paths: ResultPaths) -> str | None:
    """Why a cell has no weights to evaluate; None if it has. UserError where it is not trained."""
    if cell.training is None:
        return None
    folder = paths.cell(cell)
    if not (folder / "train.json").exists() or not (folder / "weights").is_dir():
        raise UserError(f"{folder}: no trained weights; train the cell first")
    training = marker_of(folder, cell=folder.name)
    return f"training diverged: {training['reason']}" if training["status"] == "diverged" else None


def check_weights(cell: Cell, paths: ResultPaths) -> None:
    """UserError unless all that is read of a cell's weights, and of the base model under an adapter, is as written."""
    if cell.training is None or cell.training.tuning != "full":
        verified_model(paths.model(cell))
    if cell.training is not None:
        check_outputs(paths.cell(cell), WEIGHTS)


def folders_of(cell: Cell, paths: ResultPaths) -> tuple[Path, Path | None]:
    """(base model, or the cell's own weights after full fine-tuning; its adapter, if it has one)."""
    weights = paths.cell(cell) / "weights"
    if cell.training is not None and cell.training.tuning == "full":
        return weights, None
    return model_path(paths.model(cell)), None if cell.training is None else weights


def evaluate_model(
    *,
    cell_id: str,
    base: Path,
    adapter: Path | None,
    evaluation: Evaluation,
    out: Path,
    data_dir: Path | None,
    hub: Path | None = None,
    replies: dict[str, Any] | None = None,
    template: Template = "plain",
    progress: Path | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Score one model and write `out` (results/cells/CELL/EVALUATION).

    base: folder of a model; adapter: folder of a LoRA adapter for it, or None. data_dir: where local benchmark files
    lie, for `evaluation.source` "data-dir"; hub: where it says what was fetched, for "hub". replies: of the model, if
    another process has run it (replies.py). template: that the model was trained with. progress: file that says how
    far it is (progress.py). inputs: digests of what the scores come from, which are stored beside them. Returns what
    `scores.json` holds. UserError where the replies are to other questions.
    """
    started, processor_time = time.monotonic(), time.process_time()
    tasks = ready_tasks(evaluation, data_dir, hub)

    if replies is None:
        from qtuning.evaluation.model import load_model

        with telling("evaluation", "the model itself", "set evaluation.dtype: bfloat16, or take a larger GPU"):
            model = load_model(base, adapter, evaluation, template)
    else:
        from qtuning.evaluation.replies import AskedModel

        model = AskedModel(base, evaluation, template, replies)
    size = f"batches of {evaluation.batch_size} sequences of up to {evaluation.max_length:,} tokens"
    with (
        telling("evaluation", size, "lower evaluation.batch_size, which is part of the evaluation's name"),
        Reporter(progress) as reporter,
    ):
        model.reporter = reporter
        samples, likelihoods = work_through(model, tasks, evaluation)
    if replies is not None and replies["questions"] != model.questions.digest:
        raise UserError(
            f"{out.parent.name}: vLLM has answered other questions than {out.name} asks now (have the benchmarks or "
            "the tokenizer changed?); delete its file below results/replies and run again"
        )
    items = items_table(samples, likelihoods, drawn=evaluation.limit is not None)
    benchmarks = {
        benchmark: {
            "fewshot": shots_of(benchmark, evaluation),
            "max_new_tokens": max_new_tokens(task),
            "truncated_prompts": _truncated(model, task, samples[benchmark]),
            "cut_answers": _unfinished(model, task),
            **(_revision(benchmark, hub) if evaluation.source == "hub" else {}),
            **summarise_items(benchmark, items),
        }
        for benchmark, task in tasks.items()
    }
    for benchmark, entry in benchmarks.items():
        for count, what in (
            (
                entry["truncated_prompts"],
                f"prompts did not fit evaluation.max_length = {evaluation.max_length} and lost their beginning",
            ),
            (entry["cut_answers"], f"answers had no end after {entry['max_new_tokens']} tokens and were cut"),
        ):
            if count:
                logging.getLogger(__name__).warning(f"{benchmark}: {count} of {entry['items']} {what}")
    # scores may change with each of these
    ours = ("lm_eval",) if replies else ("lm_eval", "torch", "transformers", "peft")
    backend = {"name": evaluation.backend, "device": replies["device"] if replies else model.device.type}
    backend |= evaluation.model_dump(include={"batch_size", "dtype", "max_length"})
    if replies is None and model.device.type == "cuda":  # said of a model without one, too: the two are compared
        backend["adapters"] = "merged"
    backend |= {name: importlib.metadata.version(name) for name in ours} | (replies["versions"] if replies else {})
    scores = {
        **_identity(cell_id, evaluation),
        "backend": backend,
        "rendering": {
            "turn_end": model.turn.token,
            "date": TODAY.isoformat() if evaluation.chat_template and writes_date(model.tokenizer) else None,
        },
        "benchmarks": benchmarks,
        **({} if inputs is None else {"inputs": inputs}),
        "seconds": round(time.monotonic() - started + (replies["seconds"] if replies else 0.0), 3),
        "cpu_seconds": round(time.process_time() - processor_time, 3),
    }
    write_scores(out, items, scores)
    return scores


def _revision(benchmark: str, hub: Path | None) -> dict[str, Any]:
    """Which data set of the hub its items are: {"data_set": {"id", "revision", "commit"}}."""
    repository = repository_of_benchmark(benchmark)
    assert repository is not None and hub is not None, "its items have been read"
    return {"data_set": {"id": repository.id, "revision": repository.revision, "commit": commit_of(repository, hub)}}


def ready_tasks(evaluation: Evaluation, data_dir: Path | None, hub: Path | None = None) -> dict[str, "Task"]:
    """The tasks of an evaluation with their items; UserError where these are missing or unusable."""
    folder = None if evaluation.source == "hub" else local_folder(evaluation.source, data_dir)
    go_offline()  # libraries shall not wait for a hub on a machine without network
    if folder is None and evaluation.source != "hub":
        raise UserError(f"evaluation.source = {evaluation.source!r}: no folder given; give --config data_dir=DIR")
    # libraries warn of what is set on purpose (dtype, batch size, truncation, shots)
    for name in ("lm_eval", "transformers", "datasets", "peft", "accelerate", "latex2sympy2_extended", "math_verify"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # before the model, which takes longer to load: bad files are reported at once
    return load_tasks(evaluation, folder, hub)


def work_through(
    model: "EvaluatedModel", tasks: dict[str, "Task"], evaluation: Evaluation
) -> tuple[dict[str, list[LoggedSample]], dict[str, dict[int, list[Likelihood]]]]:
    """All that a model is asked: (what lm-eval logs of each task, likelihood metrics of each item)."""
    samples = run_tasks(model, tasks, evaluation)
    likelihoods = {
        benchmark: likelihoods_of(model, benchmark, task, samples[benchmark], evaluation.chat_template)
        for benchmark, task in (tasks.items() if evaluation.likelihoods else ())
    }
    return samples, likelihoods


def _identity(cell_id: str, evaluation: Evaluation) -> dict[str, Any]:
    return {
        "cell": cell_id,
        "evaluation": evaluation.model_dump(mode="json"),
        "evaluation_id": evaluation_id(evaluation),
    }


def write_scores(out: Path, items: polars.DataFrame, scores: dict[str, Any]) -> None:
    """Make the folder `out`, whole or not at all, the marker `scores.json` last."""
    with atomic_path(out) as temporary:
        temporary.mkdir()
        items.write_parquet(temporary / ITEMS)
        write_sealed(temporary / "scores.json", {**scores, FILES: digests_of(temporary, [temporary / ITEMS])})


def run_tasks(model: "LM", tasks: dict[str, "Task"], evaluation: Evaluation) -> dict[str, list[LoggedSample]]:
    """lm-eval's loop. Returns what it logs of each task, one entry for each item and filter, in item order."""
    from lm_eval.evaluator import evaluate as lm_evaluate

    drawn = {benchmark: drawn_items(benchmark, task, evaluation) for benchmark, task in tasks.items()}
    results = lm_evaluate(
        lm=model,
        task_dict={"tasks": tasks, "groups": {}, "group_map": {}},
        samples=None if evaluation.limit is None else drawn,
        bootstrap_iters=0,
        log_samples=True,
        apply_chat_template=evaluation.chat_template,
        fewshot_as_multiturn=evaluation.chat_template,
    )
    assert results is not None, "lm-eval returns None only in the other processes of a distributed run"
    return {benchmark: results["samples"][benchmark] for benchmark in tasks}


def items_table(
    samples: dict[str, list[LoggedSample]],
    likelihoods: Mapping[str, Mapping[int, list[Likelihood]]] | None = None,
    drawn: bool = False,
) -> polars.DataFrame:
    """A row for each benchmark, item and metric: the contents of items.parquet. drawn: not all items were asked."""
    schema = {
        "benchmark": polars.String,
        "item": polars.Int64,
        "item_hash": polars.String,
        "cluster": polars.String,
        "metric": polars.String,
        "score": polars.Float64,
        "response": polars.String,
    }
    rows: list[tuple[Any, ...]] = []
    for benchmark, logged in samples.items():
        more = dict((likelihoods or {}).get(benchmark, {}))
        key = BENCHMARKS[benchmark].drawn_cluster if drawn else None
        for sample in logged:
            # if a task has several filters, the name of a metric tells which it is
            suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
            cluster = cluster_of(benchmark, sample["doc"], sample["doc_hash"], key)
            item = benchmark, sample["doc_id"], sample["doc_hash"], cluster
            for metric in sample["metrics"]:
                rows.append((*item, metric + suffix, float(sample[metric]), _response(sample, metric)))
            rows += ((*item, *likelihood) for likelihood in more.pop(sample["doc_id"], ()))
    return polars.DataFrame(rows, schema=schema, orient="row")


def summarise_items(benchmark: str, items: polars.DataFrame) -> dict[str, Any]:
    """Number of items, mean of every metric, and a digest that tells which items these were."""
    mine = items.filter(polars.col("benchmark") == benchmark)
    hashes = mine.unique("item").sort("item")["item_hash"]
    means = mine.group_by("metric", maintain_order=True).agg(polars.col("score").mean())
    return {
        "items": len(hashes),
        "headline": BENCHMARKS[benchmark].metric,
        "metrics": dict(means.iter_rows()),
        "digest": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    }


def _response(sample: LoggedSample, metric: str) -> str:
    """The generated text; for multiple choice, the choice that the model prefers by `metric`."""
    if not isinstance(sample["resps"][0][0], tuple):
        return str(sample["resps"][0][0])
    choices = sample["doc"]["choices"]["text"]
    likelihoods = [loglikelihood for ((loglikelihood, _),) in sample["resps"]]
    if metric == "acc_norm":  # log-likelihood for each character of the choice
        likelihoods = [value / len(choice) for value, choice in zip(likelihoods, choices, strict=True)]
    return str(choices[likelihoods.index(max(likelihoods))])


def _unfinished(model: "EvaluatedModel", task: "Task") -> int | None:
    """How many answers reached their longest length without an end; None where nothing is generated."""
    if max_new_tokens(task) is None:
        return None
    return sum(name == task.config.task for name, _ in model.unfinished)


def _truncated(model: Any, task: "Task", samples: list[LoggedSample]) -> int:
    """How many items have a prompt that is too long for the model; lm-eval cuts off its beginning."""
    longest = max_new_tokens(task)
    # a choice may be one token longer: lm-eval does not feed its last token, which predicts nothing
    room = model.max_length + 1 if longest is None else model.max_length - longest
    items = {}
    for sample in samples:
        # multiple choice: (prompt, choice); generation: (prompt, options)
        texts = ["".join(part for part in arguments if isinstance(part, str)) for arguments in sample["arguments"]]
        items[sample["doc_id"]] = max(texts, key=len)
    # a text has at most one token for each byte, and two special ones: most texts need no counting
    long = (text for text in items.values() if len(text.encode()) + 2 > room)
    return sum(len(model.tok_encode(text)) > room for text in long)
