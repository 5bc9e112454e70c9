"""What finds planted errors: the measures against their definitions, and cells whose answers are known otherwise."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cell_folders import mark_trained
from hypothesis import given, settings
from hypothesis import strategies as st

from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import ResultPaths
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import read_json, write_text
from qtuning.model.load import load_model, make_ready, model_path
from qtuning.probes.planted_errors import find_planted_errors, found_by_pruning, found_by_score

tokens = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(tokens)
def test_scores_are_measured_as_defined(drawn: list[tuple[int, bool]]) -> None:
    """AUC: over all pairs of a wrong and a right token. Precision: the mean over orders of ties, by its definition."""
    score, wrong = (np.array(column) for column in zip(*drawn, strict=True))
    found = found_by_score(score.astype(float), wrong)
    bad, good = score[wrong], score[~wrong]
    if not len(bad) or not len(good):
        assert found == {"auc": None, "precision_at_planted": None}
        return
    pairs = [1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good]
    assert found["auc"] == pytest.approx(sum(pairs) / len(pairs))
    # a token is among the n highest if fewer than n are above it; of a tie at the edge, the share that still fits
    chances = [
        min(1.0, max(0.0, (len(bad) - (score > own).sum()) / (score == own).sum())) for own in score[wrong].tolist()
    ]
    assert found["precision_at_planted"] == pytest.approx(sum(chances) / len(bad))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=20))
def test_pruning_is_measured_as_defined(drawn: list[tuple[bool, bool]]) -> None:
    pruned, wrong = (np.array([pair[column] for pair in drawn], dtype=bool) for column in (0, 1))
    found = found_by_pruning(pruned, wrong)
    hits = sum(p and w for p, w in drawn)
    assert found["precision"] == (hits / sum(pruned) if any(pruned) else None)
    assert found["recall"] == (hits / sum(wrong) if any(wrong) else None)
    assert (found["tokens"], found["wrong"], found["pruned"]) == (len(drawn), sum(wrong), sum(pruned))


ROWS: list[dict[str, Any]] = [
    {
        "instruction": f"What is {n} + 2?",
        "output": f"{n} + 2 = {'77' if n % 3 == 0 else n + 2}",
        "errors": [[len(f"{n} + 2 = "), len(f"{n} + 2 = 77")]] if n % 3 == 0 else [],
    }
    for n in range(10, 34)
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sums with errors, prepared for the shipped model."""
    root = tmp_path_factory.mktemp("localisation")
    write_text(root / "rows.jsonl", "\n".join(map(json.dumps, ROWS)))
    cell, paths = a_cell(root, "full"), ResultPaths(root)
    make_ready(cell.model, paths.model(cell))
    prepare(cell, model_path(paths.model(cell)), paths.samples(cell))
    return root


def a_cell(root: Path, method: str, **options: Any) -> Cell:
    columns: Any = {"errors": "errors"} if root.name.startswith("localisation") else {}
    return Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(name="sums", source=FileSource(kind="path", file=str(root / "rows.jsonl")), columns=columns),
        pruning=make_pruning(MethodEntry(method=method, options=options), Ratios(sample_ratio=0.5, token_ratio=0.5)),
        training=Training(tuning="full", cutoff=128),
        seeds=Seeds(data=0, pruner=0, init=0),
    )


def answer_of(root: Path, cell: Cell, status: str = "done") -> dict[str, Any]:
    """The answer for a cell whose training changed nothing: its weights are the base model's."""
    paths = ResultPaths(root)
    base, folder = model_path(paths.model(cell)), paths.cell(cell)
    load_model(base, "float32").save_pretrained(folder / "weights")
    load_tokenizer(base).save_pretrained(folder / "weights")
    mark_trained(folder, status)
    return dict(read_json(find_planted_errors(cell, paths)))


def test_places_of_the_tokens(ground: Path) -> None:
    paths, cell = ResultPaths(ground), a_cell(ground, "full")
    stored = load_samples(paths.samples(cell))
    tokenizer = load_tokenizer(model_path(paths.model(cell)))
    assert stored.errors is not None
    for row, sample, places in zip(ROWS, stored, stored.errors, strict=True):
        assert bool(places) == bool(row["errors"])
        assert tokenizer.decode(sample.tokens[list(places)]).strip() == ("77" if places else "")


def test_full_data_prunes_nothing_and_finds_errors_by_perplexity(ground: Path) -> None:
    answer = answer_of(ground, a_cell(ground, "full"))
    assert answer["trained"] == answer["base"], "training changed nothing"
    base = answer["base"]
    assert base["pruned"]["pruned"] == 0 == base["pruned_in_kept"]["pruned"]
    assert base["kept_samples"] == {"with_error": 1.0, "without": 1.0}
    assert base["pruned"]["wrong"] == 2 * 8, "two digits in each of eight samples"
    assert base["ppl"]["auc"] > 0.8, "the shipped model can add"


def test_pruning_by_perplexity_is_ranking_by_it(ground: Path) -> None:
    """`full+ppl-original` keeps the highest losses of each batch; lambda 0 makes s the perplexity."""
    answer = answer_of(ground, a_cell(ground, "full+ppl-original"))["base"]
    whole = answer["pruned"]
    assert whole["pruned"] == pytest.approx(0.5 * whole["tokens"], abs=2)
    assert whole["recall"] < 0.3 < 0.7 < answer["ppl"]["auc"], "what has a high loss is kept"
    assert answer["pruned"] == answer["pruned_in_kept"], "no sample is dropped"
    assert answer["prunable"] == {name: answer[name] for name in ("ppl", "s", "pruned")}, "every sample may lose tokens"
    plain = answer_of(ground, a_cell(ground, "q-tuning", **{"lambda": 0.0}))
    assert plain["lambda"] == 0
    assert plain["base"]["s"] == plain["base"]["ppl"] == answer["ppl"]


def test_q_tuning_keeps_to_its_budget(ground: Path) -> None:
    answer = answer_of(ground, a_cell(ground, "q-tuning-budget"))["base"]
    assert 0.7 * answer["pruned"]["tokens"] <= answer["pruned"]["pruned"] < answer["pruned"]["tokens"]
    kept = 8 * answer["kept_samples"]["with_error"] + 16 * answer["kept_samples"]["without"]
    assert kept == 12, "half of 24"
    inside = answer["pruned_in_kept"]
    dropped = answer["pruned"]["tokens"] - inside["tokens"]
    assert inside["pruned"] == answer["pruned"]["pruned"] - dropped
    prunable = answer["prunable"]["pruned"]
    assert prunable["tokens"] < inside["tokens"], "Q4 loses none"
    assert (prunable["pruned"], prunable["precision"]) == (inside["pruned"], inside["precision"])
    assert answer == answer_of(ground, a_cell(ground, "q-tuning-budget"))["base"], "the same answer twice"


def test_where_batches_select_together_so_does_localisation(ground: Path) -> None:
    """Reading A9 `global` over three batches of 8: all 24 samples are decided at once, as if they were one batch."""
    together = a_cell(ground, "q-tuning")
    assert together.pruning is not None and together.training is not None
    together = together.model_copy(
        update={
            "pruning": together.pruning.model_copy(update={"selection": "global"}),
            "training": together.training.model_copy(update={"update_samples": 3 * together.training.batch_size}),
        }
    )
    large = a_cell(ground, "q-tuning")
    assert large.training is not None
    large = large.model_copy(update={"training": large.training.model_copy(update={"batch_size": 24})})
    answer = answer_of(ground, together)["base"]
    assert answer["pruned"] == answer_of(ground, large)["base"]["pruned"]
    assert answer["kept_samples"] == answer_of(ground, large)["base"]["kept_samples"]
    apart = together.model_copy(
        update={"pruning": together.pruning.model_copy(update={"selection": "device"})}  # type: ignore[union-attr]
    )
    assert answer["pruned"] != answer_of(ground, apart)["base"]["pruned"]


def test_samples_drawn_by_epoch(ground: Path) -> None:
    answer = answer_of(ground, a_cell(ground, "random+random"))["base"]
    assert 8 * answer["kept_samples"]["with_error"] + 16 * answer["kept_samples"]["without"] == 12


def test_a_diverged_cell_has_the_base_model_s_answer_alone(ground: Path) -> None:
    answer = answer_of(ground, a_cell(ground, "longest+random"), status="diverged")
    assert answer["trained"] is None
    assert answer["base"]["ppl"]["auc"] > 0.8


def test_refusals(ground: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trained cell; train it first"):
        find_planted_errors(a_cell(ground, "entropy+random"), ResultPaths(ground))
    write_text(tmp_path / "rows.jsonl", json.dumps({"instruction": "a", "output": "b"}))
    cell, paths = a_cell(tmp_path, "full"), ResultPaths(tmp_path)
    make_ready(cell.model, paths.model(cell))
    prepare(cell, model_path(paths.model(cell)), paths.samples(cell))
    mark_trained(paths.cell(cell))
    with pytest.raises(UserError, match="its train set states no errors"):
        find_planted_errors(cell, paths)
