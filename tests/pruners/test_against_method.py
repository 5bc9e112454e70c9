"""Q-Tuning against an exact oracle of docs/method.md: random batches with ties, every reading, every preset."""

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, get_args

import pytest
import torch
from oracle_method import DEFAULTS, PRESETS, Decision, Point, decide
from torch import Tensor

from qtuning.experiment import presets
from qtuning.experiment.cell import Readings
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.registry import TokenPruningOptions, TriageOptions
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.pruners.base import EXEMPT, PRUNABLE, WHOLE, Candidates
from qtuning.pruners.method import Selection, concatenate, method_of, select_together
from qtuning.scoring.scores import BatchScores
from qtuning.train.seeding import generator

ROLE = {"Q2": PRUNABLE, "Q4": WHOLE, "outside": EXEMPT}
SAMPLE_RATIOS = (0.0078125, 0.0625, 0.125, 0.25, 0.3, 0.5, 0.7, 1.0)
TOKEN_RATIOS = (0.01, 0.1, 0.3, 0.5, 0.7, 1.0)
MANY = int(os.environ.get("QTUNING_BATCHES", "1000"))  # of each reading and preset; 10000 take half an hour
FAMILIES = ("lattice", "lattice", "lattice", "free", "equal errors", "equal")


@dataclass(frozen=True)
class GivenScores(BatchScores):
    """Scores that are given and not computed, so that ties are ties in floating point, too."""

    given_ppl: Tensor = field(kw_only=True)
    given_ent: Tensor = field(kw_only=True)
    given_token_ppl: Tensor = field(kw_only=True)

    @cached_property
    def ppl(self) -> Tensor:
        return self.given_ppl

    @cached_property
    def ent(self) -> Tensor:
        return self.given_ent

    @cached_property
    def token_ppl(self) -> Tensor:
        return self.given_token_ppl


def candidates_of(batch: Sequence[Point]) -> Candidates:
    def doubles(values: Any) -> Tensor:
        return torch.tensor([float(value) for value in values], dtype=torch.float64)

    lengths = torch.tensor([len(point.tokens) for point in batch])
    unused = torch.zeros(int(lengths.sum()), dtype=torch.float64)
    scores = GivenScores(
        unused,
        unused,
        lengths,
        doubles(point.sequence_ent for point in batch),
        given_ppl=doubles(point.ppl for point in batch),
        given_ent=doubles(point.ent for point in batch),
        given_token_ppl=doubles(token for point in batch for token in point.tokens),
    )
    numbers, prompts = torch.tensor([p.number for p in batch]), torch.tensor([p.prompt for p in batch])
    return Candidates(numbers, lengths, scores, prompts=prompts)


def draw_batch(rng: random.Random, family: str) -> list[Point]:
    """1 to 64 samples. On the lattice few values make ties, and every scaled value is exact: spans are powers of 2."""
    size = rng.choice((1, 2, 3, 4, 5, 7, 8, 8, 8, 16, 24, 33, 64))
    errors, doubts = (1, 2, 3, 5, 9), (0, 1, 2, 4, 8)

    def column(values: tuple[int, ...], both_ends: bool) -> list[int]:
        drawn = [rng.choice(values) for _ in range(size)]
        if both_ends and size > 1:
            low, high = rng.sample(range(size), 2)
            drawn[low], drawn[high] = min(values), max(values)
        return drawn

    if family == "free":
        axes = [[rng.randrange(1, 2**20) for _ in range(size)] for _ in range(3)]
        for copied in range(size // 4):  # duplicates
            source = rng.randrange(size)
            for axis in axes:
                axis[copied] = axis[source]
    else:
        constant = {"equal errors": (5,), "equal": (5,)}.get(family, errors)
        sure = (2,) if family == "equal" else doubts
        axes = [column(constant, len(constant) > 1), column(sure, len(sure) > 1), column(sure, len(sure) > 1)]
    longest = rng.choice((1, 3, 10, 12)) if size < 20 else 4
    tokens = (1, 2, 4, 7) if family != "free" else range(1, 2**36)
    return [
        Point(number, *point, [rng.choice(tokens) for _ in range(rng.randint(1, longest))], rng.randint(1, 12))
        for number, point in zip(rng.sample(range(1000), size), zip(*axes, strict=True), strict=True)
    ]


def single_readings() -> list[tuple[str, str]]:
    """Every reading of the configuration that is not the default, those that decide nothing of a batch aside."""
    fields = TriageOptions.model_fields | TokenPruningOptions.model_fields
    fields |= {"kept_samples": Readings.model_fields["kept_samples"]}
    assert {key: field.default for key, field in fields.items() if key != "lambda_"} == DEFAULTS
    return [
        (key, value)
        for key, field in fields.items()
        for value in get_args(field.annotation)
        if isinstance(value, str) and value != field.default
    ]


CASES: dict[str, tuple[str, dict[str, str]]] = {name: (name, {}) for name in PRESETS}
CASES |= {f"{key}={value}": ("q-tuning", {key: value}) for key, value in single_readings()}
CASES["any combination"] = "q-tuning", {}


def combined(rng: random.Random) -> dict[str, str]:
    """Some readings at once."""
    chosen = dict(DEFAULTS)
    for key, value in rng.sample(single_readings(), 4):
        chosen[key] = value
    return {key: value for key, value in chosen.items() if value != DEFAULTS[key]}


def check(rng: random.Random, name: str) -> bool:
    """One random batch; whether equal scores decided. A batch with a sample exactly on a middle line is drawn again."""
    method, readings = CASES[name]
    if name == "any combination":
        readings = combined(rng)
    family = rng.choice(FAMILIES)
    ratios = rng.choice(SAMPLE_RATIOS), rng.choice(TOKEN_RATIOS)
    lambda_ = rng.choice((0.3, 0.7) if family == "free" else (0.0, 0.25, 0.5, 0.5, 1.0))
    parts = [draw_batch(rng, family)]
    if rng.random() < 0.1:  # two batches together (A9)
        parts.append([replace(point, number=point.number + 1000) for point in draw_batch(rng, family)])
    options: dict[str, Any] = {"lambda": lambda_, **readings}
    found = select(method, options, ratios, [candidates_of(part) for part in parts], rng.randrange(10**6))
    batch = [point for part in parts for point in part]
    supplement = found.samples.supplement.tolist()
    drawn = {point.number for point, added in zip(batch, supplement, strict=True) if added}

    def draw(pool: set[int], count: int) -> set[int]:
        assert drawn <= pool and len(drawn) == count
        return drawn

    truth = decide(batch, *ratios, lambda_, {**PRESETS[method], **readings}, draw)
    if truth.uncertain:
        return check(rng, name)
    compare(batch, found, truth)
    return truth.tied


def select(
    method: str, options: Mapping[str, Any], ratios: tuple[float, float], parts: Sequence[Candidates], seed: int
) -> Selection:
    """The decision on one batch, or on several together (A9, `global`), as one."""
    entry = MethodEntry(method=method, options=dict(options))
    pruning = make_pruning(entry, Ratios(sample_ratio=ratios[0], token_ratio=ratios[1]))
    chosen = method_of(pruning)
    if len(parts) == 1:
        return chosen.select(parts[0], generator(seed))
    together = select_together(chosen, parts, generator(seed))
    samples = concatenate([selection.samples for selection in together])
    tokens = torch.cat([selection.tokens for selection in together])
    return Selection(samples, tokens, together[0].asked_samples, together[0].asked_tokens)


def compare(batch: Sequence[Point], found: Selection, truth: Decision) -> None:
    numbers = [point.number for point in batch]
    samples, log = found.samples, found.samples.log
    assert dict(zip(numbers, samples.quadrant.tolist(), strict=True)) == truth.quadrant
    assert {n for n, added in zip(numbers, samples.supplement.tolist(), strict=True) if added} == truth.added
    roles = {n: role for n, role in zip(numbers, samples.role.tolist(), strict=True) if role}
    assert roles == {n: ROLE[role] for n, role in truth.role.items()}
    masks = found.tokens.split([len(point.tokens) for point in batch])
    kept = {(n, t) for n, mask in zip(numbers, masks, strict=True) for t, stays in enumerate(mask.tolist()) if stays}
    assert kept == truth.tokens
    assert (log["supp_ties"], log["trimmed"], log["supplemented"]) == (truth.tied, truth.trimmed, len(truth.added))
    assert log["from_thresholds"] == len(truth.role) - len(truth.added)


@pytest.mark.parametrize("name", CASES)
def test_decisions_are_those_of_the_method(name: str) -> None:
    rng = random.Random(name)
    ties = sum(check(rng, name) for _ in range(40))
    assert ties or "supplement" in name or "third-party" in name, "equal scores decide sometimes"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_many_decisions_are_those_of_the_method(name: str) -> None:
    rng = random.Random(f"many {name}")
    assert sum(check(rng, name) for _ in range(MANY)) or "supplement=" in name or "third-party" in name


def test_presets_are_those_of_the_method() -> None:
    changed = {name: {k: v for k, v in asked.items() if v != DEFAULTS[k]} for name, asked in PRESETS.items()}
    changed["q-tuning-third-party"]["pruned_tokens"] = "remove"  # A8, which decides nothing of a batch
    assert changed == {name: dict(preset.readings) for name, preset in presets.PRESETS.items()}
