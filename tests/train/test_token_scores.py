"""Scores of tokens in the trace: those that the decision was made by, of the samples drawn, to the precision stated."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import cell_of, pooling, started

from qtuning.data.samples import Sample
from qtuning.train import token_scores
from qtuning.train.decision import unpack_mask
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.token_scores import UNKNOWN, decode, draw_shown, encode


@given(st.lists(st.floats(-1e-6, 60), min_size=1, max_size=20))
def test_a_byte_says_a_value_to_half_a_step(values: list[float]) -> None:
    codes = encode(torch.tensor(values, dtype=torch.float64)).numpy()
    assert UNKNOWN not in codes
    for value, found in zip(values, decode(codes.tobytes()), strict=True):
        wanted = min(max(value, 0), 40.32)
        step = 1 / 40
        # of the roots, which is what is rounded
        assert abs(math.sqrt(found) - math.sqrt(wanted)) <= step / 2 + 1e-9


def test_what_is_not_known_is_no_number() -> None:
    codes = token_scores.scatter(torch.tensor([1.0, 4.0]), torch.tensor([False, True, False, True]))
    assert [None if math.isnan(value) else value for value in decode(codes.numpy().tobytes())] == [None, 1, None, 4]


def sized(lengths: list[int]) -> list[Sample]:
    return [Sample(7 * n, torch.zeros(2 + length, dtype=torch.int64), 2) for n, length in enumerate(lengths)]


def test_the_draw_holds_as_many_tokens_as_allowed() -> None:
    few, many = sized([30] * 100), sized([30] * 6000)
    assert draw_shown(few) == {sample.number for sample in few}, "all, if they fit"
    assert len(draw_shown(many)) == 4 * 6000 // 30
    order = token_scores.order_to_show(6000)
    assert draw_shown(many) == {7 * position for position in order[:800]}
    assert draw_shown(sized([30_000, *[1] * 9])) <= {7 * n for n in range(1, 10)}, "none that does not fit"


def scores_of(model: Any, sample: Sample) -> tuple[list[float], list[float]]:
    """(NLL, entropy) of the response tokens of one sample alone, by transformers' own forward."""
    with torch.no_grad():
        logits = model(input_ids=sample.tokens[None], use_cache=False).logits[0].double()
    logs = torch.log_softmax(logits[sample.prompt - 1 : -1], -1)
    nll = -logs[torch.arange(len(logs)), sample.tokens[sample.prompt :]]
    return nll.tolist(), (-(logs.exp() * logs).sum(-1)).tolist()


def close(codes: bytes, wanted: list[float]) -> bool:
    """Equal but for the rounding of a value that lies at the edge of two codes."""
    exact = encode(torch.tensor(wanted, dtype=torch.float64)).int()
    return bool(((torch.tensor(list(codes)) - exact).abs() <= 1).all())


@pytest.mark.parametrize("options", [{}, pooling(2), {"scoring": {"schedule": "reuse-graph"}}])
def test_the_trace_has_the_scores_of_the_decision(tiny_llama: Any, samples: list[Sample], options: Any) -> None:
    loop, window = started(cell_of("q-tuning", (0.5, 0.5), options=options), tiny_llama, samples)
    _, rows = loop.step(window)
    by_number = {sample.number: sample for sample in samples}
    for row in rows:
        found = dict(zip(TRACE_SCHEMA, row, strict=True))
        nll, entropy = scores_of(tiny_llama, by_number[found["sample"]])
        assert close(found["token_nll"], nll) and close(found["token_entropy"], entropy)
        assert math.isclose(sum(nll) / len(nll), math.log(found["ppl"]), abs_tol=1e-4)
    assert len(rows) >= 4


def test_without_scores_the_trained_tokens_have_their_loss(tiny_llama: Any, samples: list[Sample]) -> None:
    loop, window = started(cell_of("random", (0.5, 0.5)), tiny_llama, samples)
    _, rows = loop.step(window)
    by_number, trained = {sample.number: sample for sample in samples}, 0
    for row in rows:
        found = dict(zip(TRACE_SCHEMA, row, strict=True))
        assert found["token_entropy"] is None
        if not found["kept_tokens"]:
            assert found["token_nll"] is None
            continue
        mask = unpack_mask(found["mask"], found["response_tokens"])
        known = [code for code, kept in zip(found["token_nll"], mask, strict=True) if kept]
        nll, _ = scores_of(tiny_llama, by_number[found["sample"]])
        assert close(bytes(known), [value for value, kept in zip(nll, mask, strict=True) if kept])
        assert found["token_nll"].count(UNKNOWN) == int((~mask).sum())
        trained += len(known)
    assert trained


def test_only_of_the_draw(tiny_llama: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_scores, "LEAST", 20)
    monkeypatch.setattr(token_scores, "EACH", 0)
    drawn = draw_shown(samples)
    loop, _ = started(cell_of("q-tuning", (0.5, 0.5)), tiny_llama, samples)
    rows = [dict(zip(TRACE_SCHEMA, row, strict=True)) for window in loop.windows() for row in loop.step(window)[1]]
    assert 0 < len(drawn) < len(samples)
    assert {row["sample"] for row in rows if row["token_nll"] is not None} == drawn
