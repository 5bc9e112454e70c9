"""Watching changes nothing, survives a stop, and looks when it should; masks are of the tokens that were trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loops import cell_of, pooling, started, timeless

from qtuning.data.samples import Sample
from qtuning.model.packed import PackedModel
from qtuning.pruners.base import PRUNABLE
from qtuning.scoring.scores import observe
from qtuning.train.decision import pack_mask, unpack_mask
from qtuning.train.journal import TRACE_SCHEMA
from qtuning.train.step import TrainingLoop
from qtuning.train.watch import FILE, LOOKS, Watch, draw_watched

SINGLE: dict[str, Any] = {"batch_size": 2, "epochs": 3, "accumulation": 1}  # 9 updates an epoch of the full data


def looks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def trained(loop: TrainingLoop, watch: Watch | None, stop: int = 1000) -> tuple[list[Any], list[Any]]:
    """Metrics and trace of the updates until `stop` are made."""
    records, trace = [], []
    if watch is not None:
        watch.before_training()
    for window in loop.windows():
        record, rows = loop.step(window)
        records.append(record)
        trace += rows
        if watch is not None:
            watch.after_update(window)
        if window.update + 1 == stop:
            break
    return records, trace


def weights(loop: TrainingLoop) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in loop.bare.model.named_parameters()}


@pytest.mark.parametrize("method", ["q-tuning", "infobatch+random", "entropy+ppl"])
def test_watching_changes_nothing(tiny_llama: Any, samples: list[Sample], tmp_path: Path, method: str) -> None:
    cell = cell_of(method, (0.5, 0.5), **SINGLE)
    alone, _ = started(cell, tiny_llama, samples)
    plain = trained(alone, None)
    watched, _ = started(cell, tiny_llama, samples)
    seen = trained(watched, Watch(watched, tmp_path, 0, write=True))
    assert timeless(plain[0]) == timeless(seen[0]) and plain[1] == seen[1]
    mine = weights(watched)
    assert all(torch.equal(weight, mine[name]) for name, weight in weights(alone).items())
    costs = [{k: v for k, v in vars(loop.cost).items() if "seconds" not in k} for loop in (alone, watched)]
    assert costs[0] == costs[1]
    assert watched.cost.seconds_watching > 0 and alone.cost.seconds_watching == 0
    # the last look is at the final weights, by a forward of its own
    model = PackedModel(watched.bare.model.eval())
    final = observe(model, samples, {"scores"}, None, torch.device("cpu")).scores
    assert final is not None
    assert looks(tmp_path)[-1]["ppl"] == pytest.approx(final.ppl.tolist(), rel=1e-5)
    assert looks(tmp_path)[-1]["sample"] == [sample.number for sample in samples]


def test_looks_come_at_equal_shares(tiny_llama: Any, samples: list[Sample], tmp_path: Path) -> None:
    for batch, total in ((1, 2 * 18), (4, 2 * 5)):
        cell = cell_of("full", batch_size=batch, epochs=2, accumulation=1)
        loop, _ = started(cell, tiny_llama, samples)
        trained(loop, Watch(loop, tmp_path, 0, write=True))
        found = [(look["update"], look["done"]) for look in looks(tmp_path)]
        # by hand: the first update at which k of LOOKS shares are done, for every k, and the start
        shares = sorted({-(-share * total // LOOKS) for share in range(1, LOOKS + 1)})
        assert found == [(0, 0.0), *((update, update / total) for update in shares)]


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_watching_goes_on_after_a_stop(tiny_llama: Any, samples: list[Sample], tmp_path: Path, stop: int) -> None:
    cell = cell_of("random+random", (0.5, 0.5), **SINGLE)
    whole, _ = started(cell, tiny_llama, samples)
    trained(whole, Watch(whole, tmp_path / "whole", 0, write=True))
    first, _ = started(cell, tiny_llama, samples)
    watch = Watch(first, tmp_path / "parts", 0, write=True)
    trained(first, watch, stop)
    second, _ = started(cell, tiny_llama, samples)
    assert first.optimizer is not None and second.optimizer is not None
    second.bare.load_state_dict(first.bare.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    numbers, tensors = first.state()
    second.restore(tensors, {**numbers, "update": first.progress.update, "cost": [vars(first.cost)]})
    with (tmp_path / "parts" / FILE).open("a") as file:  # looks after the checkpoint, and one torn by the kill
        file.write(json.dumps({"update": stop + 1, "ppl": [1.0]}) + "\n" + '{"update": 2')
    trained(second, Watch(second, tmp_path / "parts", stop, write=True))
    assert looks(tmp_path / "parts") == looks(tmp_path / "whole")


def test_the_draw_is_fixed_and_ordered(samples: list[Sample]) -> None:
    many = [Sample(number, samples[0].tokens, samples[0].prompt) for number in range(1000, 1700)]
    drawn = [sample.number for sample in draw_watched(many)]
    assert len(set(drawn)) == 100 and drawn == sorted(drawn)
    assert drawn == [sample.number for sample in draw_watched(many)]
    assert draw_watched(samples) == samples, "all, if there are fewer"


@pytest.mark.parametrize(
    ("method", "options"), [("q-tuning", {}), ("random+ppl", {}), ("longest+random", {}), ("q-tuning", pooling(4))]
)
def test_masks_of_the_trace(tiny_llama: Any, samples: list[Sample], method: str, options: dict[str, Any]) -> None:
    """Brute force: the masks of each update as the loop decides them, sample by sample."""
    cell = cell_of(method, (0.5, 0.5), options=options, **SINGLE)
    loop, _ = started(cell, tiny_llama, samples)
    recording = TrainingLoop(
        cell, loop.method, loop.source.train_set, loop.accelerator, loop.model, loop.optimizer, masks=True
    )
    lengths = {sample.number: sample.response_length for sample in samples}
    count = 0
    for window in recording.windows():
        expected: dict[int, list[bool]] = {}
        if not options:
            decisions, _ = recording.decide(window)
            for decision in decisions:
                parts = decision.verdicts.tokens.split([sample.response_length for sample in decision.samples])
                for sample, role, part in zip(decision.samples, decision.verdicts.role.tolist(), parts, strict=True):
                    if role == PRUNABLE:
                        expected[sample.number] = part.tolist()
        _, rows = recording.step(window)
        columns = dict(zip(TRACE_SCHEMA, zip(*rows, strict=True), strict=True))
        found = {
            number: unpack_mask(mask, lengths[number]).tolist()
            for number, mask in zip(columns["sample"], columns["mask"], strict=True)
            if mask is not None
        }
        assert options or found == expected
        for number, kept, tokens, mask in zip(
            *(columns[name] for name in ("sample", "kept", "kept_tokens", "mask")), strict=True
        ):
            assert mask is None or (kept and sum(found[number]) == tokens)
            count += mask is not None
    assert count > 0


def test_masks_come_back() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 7, 8, 9, 300):
        mask = rng.random(length) < 0.5
        packed = pack_mask(torch.from_numpy(mask))
        assert len(packed) == -(-length // 8) and (unpack_mask(packed, length) == mask).all()
