"""Answers that share the forward of their prompt: the scores of lm-eval, which sends each through the model alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from qtuning import progress
from qtuning.evaluation.answers import AnswerScorer, tree_of
from qtuning.evaluation.model import EvaluatedModel, load_model
from qtuning.experiment.cell import Evaluation
from qtuning.progress import Reporter, beside, read_progress

MINI = Path(__file__).parents[2] / "qtuning" / "assets" / "mini"
PROMPTS = ["Question: Who wrote it?\nAnswer:", "Background: The Trorei carries rope.\nQuestion: What?\nAnswer:", "A "]
ANSWERS = [
    ["52 - 20 = <<52-20=32>>32\n#### 32", "52 - 30 = <<52-30=22>>22\n#### 22", "5", "52 - 20 = <<52-20=32>>32"],
    ["rope", "rope and silk", "the sailors of the Trorei", "rope"],
    ["Uma"],
]


def requests() -> list[Instance]:
    pairs = [(prompt, f" {answer}") for prompt, answers in zip(PROMPTS, ANSWERS, strict=True) for answer in answers]
    return [Instance("loglikelihood", {}, pair, 0) for pair in pairs[::2] + pairs[1::2]]


def both(folder: Path, **options: Any) -> tuple[EvaluatedModel, HFLM]:
    evaluation = Evaluation(benchmarks=("squad",), **{"batch_size": 4, "max_length": 256} | options)
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1, max_length=evaluation.max_length)
    return load_model(folder, None, evaluation), theirs


@pytest.mark.parametrize("batch_size", [1, 4])
def test_scores_of_the_shipped_model_are_those_of_lm_eval(batch_size: int, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = both(MINI, batch_size=batch_size)
    found, expected = ours.loglikelihood(requests()), theirs.loglikelihood(requests(), disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert "answers are scored one by one" not in caplog.text, "not by lm-eval's own method"


def test_it_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WRITE_SECONDS", 0.0)
    ours, asked = both(MINI, batch_size=1)[0], requests()
    lock = tmp_path / "x.lock"
    with Reporter(beside(lock)) as ours.reporter:
        ours.loglikelihood(asked)
        found = read_progress(lock)
        assert (found.doing, found.done, found.total) == ("scored answer", len(asked), len(asked))
        generations = [
            Instance("generate_until", {}, (prompt, {"until": ["."], "max_gen_toks": 2}), 0) for prompt in PROMPTS
        ]
        ours.generate_until(generations)
        found = read_progress(lock)
        assert (found.doing, found.done, found.total) == ("generated answer", len(PROMPTS), len(PROMPTS))
    assert read_progress(lock) is None


def test_what_is_too_long_loses_its_beginning_as_in_lm_eval() -> None:
    ours, theirs = both(MINI, max_length=12)
    pairs = [pair for pair in ours.encode_pairs([request.args for request in requests()]) if len(pair[1]) <= 12]
    found = ours.score_answers(pairs)
    expected = theirs._loglikelihood_tokens([(("", ""), *pair) for pair in pairs], disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-4)


def test_answers_of_a_sliding_window_and_of_no_mask_are_scored_alone(tiny_model: Path) -> None:
    ours, _ = both(tiny_model)
    pairs = ours.encode_pairs([request.args for request in requests()])
    together = ours.score_answers(pairs)
    for scorer in (AnswerScorer(ours.model, 256, 4, alone=True), AnswerScorer(ours.model, 256, 4)):
        scorer.window = 8
        assert [value for value, _ in scorer.score(pairs)] == pytest.approx([value for value, _ in together], abs=1e-3)


def test_a_model_that_answers_otherwise_together_is_left_to_lm_eval(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = both(tiny_model)
    expected = theirs.loglikelihood(requests(), disable_tqdm=True)
    monkeypatch.setattr(AnswerScorer, "_log_probabilities", lambda self, hidden, targets: (hidden[:, 0], targets > 0))
    found = ours.loglikelihood(requests())
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    assert "answers are scored one by one" in caplog.text


def test_no_answer_has_probability_one(tiny_model: Path) -> None:
    ours, _ = both(tiny_model)
    assert ours.score_answers([([3], [])]) == [(0.0, True)]
    assert ours.score_answers([]) == []


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=4),
)
def test_every_node_sees_its_own_sequence_and_nothing_else(prompt: list[int], answers: list[list[int]]) -> None:
    tree = tree_of(prompt, answers)
    size = len(tree.tokens) + 2
    mask = torch.zeros(size, size, dtype=torch.bool).numpy()
    tree.fill(mask)
    assert not mask[-2:, :-2].any() and mask[-2:, -2:].diagonal().all()
    for answer, sources, targets in zip(answers, tree.sources, tree.targets, strict=True):
        assert targets.tolist() == answer
        for place, source in enumerate(sources):
            seen = mask[source].nonzero()[0]
            assert [tree.tokens[node] for node in seen] == prompt + answer[:place]
            assert [tree.positions[node] for node in seen] == list(range(len(prompt) + place))
    assert len(tree.tokens) <= len(prompt) + sum(len(answer) - 1 for answer in answers)
