"""`qtuning localise`: do scores and pruning find errors whose places in the train set are known?

The train set states the places (`columns: {errors: ...}` in its YAML, docs/data.md). Two questions are asked of the
base model and of the trained one. Do token perplexity and the smoothed score s_t rank wrong tokens above right ones?
Of the tokens that the cell's method would prune in an epoch, how many are wrong, and how many of the wrong are pruned?
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from accelerate import Accelerator

from qtuning.data.samples import StoredSamples, load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Pruning, Scoring
from qtuning.experiment.finished import WEIGHTS, check_outputs, marker_of
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.experiment.registry import REFERENCE
from qtuning.files import file_digest
from qtuning.manifest import write_sealed
from qtuning.model.load import verified_model
from qtuning.model.packed import PackedModel
from qtuning.pruners.base import DROPPED, PRUNABLE
from qtuning.pruners.method import method_of
from qtuning.pruners.q_tuning import smooth
from qtuning.train.accelerator import make_accelerator
from qtuning.train.candidates import CellSamples, load_for_scoring, raise_first, score_all
from qtuning.train.step import TrainingLoop

FILE = "localisation.json"
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def found_by_score(score: Values, wrong: Mask) -> dict[str, float | None]:
    """How well a token's score ranks the wrong tokens above the right ones. score, wrong: [N].

    auc: probability that a wrong token scores above a right one, ties counting half (Mann-Whitney U / (n m)).
    precision_at_planted: with n wrong tokens, the share of wrong ones among the n tokens of highest score; of a tie at
    the edge, the share that fits. Both are None if all tokens are wrong or none is.
    """
    from scipy.stats import rankdata

    count = int(wrong.sum())
    if count in (0, len(wrong)):
        return {"auc": None, "precision_at_planted": None}
    statistic = rankdata(score)[wrong].sum() - count * (count + 1) / 2
    edge = np.sort(score)[-count]
    above, at = score > edge, score == edge
    hits = wrong[above].sum() + (count - above.sum()) * wrong[at].mean()
    return {"auc": float(statistic / (count * (len(wrong) - count))), "precision_at_planted": float(hits / count)}


def found_by_pruning(pruned: Mask, wrong: Mask) -> dict[str, float | int | None]:
    """Pruned tokens against wrong ones, [N] each.

    precision: the share of the pruned that is wrong. recall: the share of the wrong that is pruned. None for 0 / 0.
    """
    both, chosen, planted = int((pruned & wrong).sum()), int(pruned.sum()), int(wrong.sum())
    return {
        "tokens": len(wrong),
        "wrong": planted,
        "pruned": chosen,
        "precision": both / chosen if chosen else None,
        "recall": both / planted if planted else None,
    }


def find_planted_errors(cell: Cell, paths: ResultPaths) -> Path:
    """Write localisation.json into a trained cell's folder and return its path.

    Keys `base` and `trained` (null where training diverged): `ppl` and `s` as `found_by_score`; `pruned` as
    `found_by_pruning` over all response tokens, and `pruned_in_kept` over those of the kept samples only (Stage 2);
    `prunable`: all three over those of the samples that may lose some (Q2);
    `kept_samples`: share of the samples with an error that are kept, and of those without.

    UserError if the cell is not trained, its train set states no errors, or its method needs a reference model.
    """
    folder = paths.cell(cell)
    if cell.pruning is None or cell.training is None or not (folder / "train.json").exists():
        raise UserError(f"{folder}: no trained cell; train it first (the base model alone is part of every answer)")
    stored = load_samples(paths.samples(cell))
    if stored.errors is None or cell.train_set is None:
        raise UserError(
            f"{folder}: its train set states no errors; its YAML needs `columns: {{errors: COLUMN}}` (docs/data.md)"
        )
    wrong = [
        np.isin(np.arange(sample.prompt, len(sample.tokens)), places)
        for sample, places in zip(stored, stored.errors, strict=True)
    ]
    base, accelerator = verified_model(paths.model(cell)), make_accelerator(cell.training.mixed_precision)
    answer: dict[str, Any] = {"cell": cell_id(cell), "lambda": smoothing_of(cell.pruning)[0]}
    answer["inputs"] = {"weights": file_digest(folder / "weights.sha256")}
    of_cell = (cell.dtype, stored.samples, accelerator)
    answer["base"] = _measure(cell, load_for_scoring(base, *of_cell), stored, wrong, accelerator)
    answer["trained"] = None
    if marker_of(folder, cell=folder.name)["status"] == "done":
        tuned = load_for_scoring(base, *of_cell, _weights(folder))
        answer["trained"] = _measure(cell, tuned, stored, wrong, accelerator)
    write_sealed(folder / FILE, answer)
    return folder / FILE


def _weights(folder: Path) -> Path:
    if not (weights := folder / "weights").is_dir():
        raise UserError(f"{weights}: no such folder: the weights are gone; delete train.json and train the cell again")
    check_outputs(folder, WEIGHTS)
    return weights


def smoothing_of(pruning: Pruning) -> tuple[float, Any]:
    """lambda and the reading of the neighbour term (A3): those of the method, or Q-Tuning's defaults."""
    options = pruning.token_options
    return float(options.get("lambda", 0.5)), options.get("neighbours", "sum")


def _measure(
    cell: Cell, packed: PackedModel, stored: StoredSamples, wrong: Sequence[Mask], accelerator: Accelerator
) -> dict[str, Any]:
    """What the scores of a model find, and what the cell's method prunes in its first epoch under them."""
    assert cell.pruning is not None and cell.training is not None
    method, samples = method_of(cell.pruning), stored.samples
    for need in (REFERENCE | {"influence", "trace"}) & method.needs.all:
        raise UserError(f"{cell.pruning.method}: needs the {need} of another model, which localisation does not load")
    scores, _ = score_all(packed, samples, accelerator, cell.training.batch_size)
    s = smooth(scores.token_ppl, scores.lengths, *smoothing_of(cell.pruning))

    kept = [np.zeros(len(mask), dtype=bool) for mask in wrong]
    role = np.full(len(samples), DROPPED)
    loop = TrainingLoop(_scored_afresh(cell), method, CellSamples.of(stored), accelerator, packed, optimizer=None)
    for window in loop.windows_of_epoch():
        decisions, failures = loop.decide(window)
        raise_first(failures)
        for batch, decision in zip(window.batches, decisions, strict=True):
            masks = decision.verdicts.tokens.split([sample.response_length for sample in decision.samples])
            for position, tokens, what in zip(batch, masks, decision.verdicts.role.tolist(), strict=True):
                kept[position], role[position] = tokens.numpy(), what

    flat, pruned, chosen = np.concatenate(wrong), ~np.concatenate(kept), role != DROPPED
    inside, prunable = (np.repeat(which, [len(mask) for mask in wrong]) for which in (chosen, role == PRUNABLE))
    faulty = np.array([bool(mask.any()) for mask in wrong])
    return {
        "ppl": found_by_score(scores.token_ppl.numpy(), flat),
        "s": found_by_score(s.numpy(), flat),
        "pruned": found_by_pruning(pruned, flat),
        "pruned_in_kept": found_by_pruning(pruned[inside], flat[inside]),
        "prunable": {
            "ppl": found_by_score(scores.token_ppl.numpy()[prunable], flat[prunable]),
            "s": found_by_score(s.numpy()[prunable], flat[prunable]),
            "pruned": found_by_pruning(pruned[prunable], flat[prunable]),
        },
        "kept_samples": {
            "with_error": float(chosen[faulty].mean()) if faulty.any() else None,
            "without": float(chosen[~faulty].mean()) if (~faulty).any() else None,
        },
    }


def _scored_afresh(cell: Cell) -> Cell:
    """The cell with a schedule that scores each batch by the model in question, whatever its schedule.

    A stale table, a proxy or a pool would mix in scores of other weights.
    """
    assert cell.pruning is not None
    return cell.model_copy(update={"pruning": cell.pruning.model_copy(update={"scoring": Scoring()})})
