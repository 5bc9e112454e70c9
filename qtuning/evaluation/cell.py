"""Evaluate one cell: its trained weights, its adapter, or the base model itself (zero-shot)."""

from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.names import ResultPaths, cell_id, cell_json, evaluation_id
from qtuning.experiment.schema import Cell, Evaluation
from qtuning.files import atomic_path, read_json, write_json, write_text


def evaluate_cell(cell: Cell, evaluation: Evaluation, paths: ResultPaths, *, data_dir: Path | None) -> None:
    """Write scores.json and items.parquet of a cell below its folder.

    A cell that diverged has no weights to evaluate: its scores are recorded as skipped, with the reason, so that
    tables show a hole instead of the workflow stopping. Raises UserError where the cell is not trained.
    """
    from qtuning.model.load import model_path

    folder, out = paths.cell(cell), paths.evaluation(cell, evaluation)
    base, adapter = model_path(paths.model(cell)), None
    if cell.zero_shot:
        write_text(folder / "cell.json", cell_json(cell) + "\n")
    else:
        if not (folder / "train.json").exists() or not (folder / "weights").is_dir():
            raise UserError(f"{folder}: no trained weights; train the cell first")
        training = read_json(folder / "train.json")
        if training["status"] == "diverged":
            _skip(cell, evaluation, out, f"training diverged: {training['reason']}")
            return
        assert cell.training is not None
        if cell.training.tuning == "lora":
            adapter = folder / "weights"
        else:
            base = folder / "weights"

    from qtuning.evaluation.run import evaluate

    evaluate(
        cell_id=cell_id(cell),
        base=base,
        adapter=adapter,
        evaluation=evaluation,
        out=out,
        data_dir=data_dir,
    )


def _skip(cell: Cell, evaluation: Evaluation, out: Path, reason: str) -> None:
    from qtuning.evaluation.run import items_table

    with atomic_path(out) as temporary:
        temporary.mkdir()
        items_table({}).write_parquet(temporary / "items.parquet")
        scores = {
            "cell": cell_id(cell),
            "evaluation": evaluation.model_dump(mode="json"),
            "evaluation_id": evaluation_id(evaluation),
            "status": "skipped",
            "reason": reason,
            "benchmarks": {},
        }
        write_json(temporary / "scores.json", scores)
