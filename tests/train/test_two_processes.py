"""Two processes train as one with twice the accumulation: under DDP and FSDP, full and LoRA.

Run as a script (`torch.distributed.run test_two_processes.py FOLDER PARALLEL TUNING`) it trains `cells(TUNING)`.
"""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from loops import CLOSE, GLOBAL, REUSE, SHAPES, apart, cell_of, run, started
from safetensors.torch import load_file, save_file

from qtuning.data.samples import Sample
from qtuning.scoring.scores import NonFinite
from qtuning.train.__main__ import run_as_worker
from qtuning.train.exchange import host_group

ROOT = Path(__file__).parents[2]
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
NOTHING = {"supplement": "none"}
# Two processes: batches 0, 2, 4 of an epoch on the first and 1, 3 on the second, which has none in the last window.
# name -> method, budget, options; under `global` selection the decisions are those of one process, whatever the split
BOTH: dict[str, tuple[str, tuple[float, float], dict[str, Any]]] = {
    "q-tuning": ("q-tuning", (0.5, 0.5), {}),
    "q-tuning-global": ("q-tuning", (0.5, 0.5), GLOBAL),
    "reuse": ("q-tuning", (0.5, 0.5), REUSE),
    "reuse-global": ("q-tuning", (0.5, 0.5), GLOBAL | REUSE),
}
ON_TWO_PROCESSES = {
    "lora": BOTH,
    "full": BOTH
    | {
        "full": ("full", (1.0, 1.0), {}),
        "random": ("random", (0.5, 0.5), {}),
        "random-global": ("random", (0.25, 0.5), GLOBAL),
        "infobatch": ("infobatch+ppl", (0.5, 0.5), {}),
        "entropy": ("entropy+fastv", (0.5, 0.5), {}),
        # attention alone, whose forward ends in a layer where it may; embeddings, by a forward of their own
        "attention": ("random+fastv", (0.5, 0.5), {}),
        "embeddings": ("deita+ppl", (0.5, 0.5), {}),
        "previous": ("asking_pruners:relieved+asking_pruners:of_relieved", (0.5, 0.5), {}),
        "previous-by-epoch": ("asking_pruners:relieved_set+ppl", (0.5, 0.5), {}),
        "pool": ("q-tuning", (0.5, 0.5), {"scoring": {"schedule": "pool", "batches": 3}}),
        "pool-global": ("q-tuning", (0.5, 0.5), GLOBAL | {"scoring": {"schedule": "pool", "batches": 3}}),
        # scores in bfloat16: from copies of the weights where they are whole, by autocast where they are slices
        "half": ("q-tuning", (0.5, 0.5), {"scoring": {"precision": "bfloat16"}}),
        "stale": ("q-tuning", (0.5, 0.5), {"scoring": {"schedule": "stale", "compare_every": 2}}),
        # batches of which nothing is kept: a process without tokens neither hangs nor changes the others
        "nothing": ("q-tuning", (0.25, 0.5), NOTHING),
        "reuse-nothing": ("q-tuning", (0.25, 0.5), NOTHING | REUSE),
    },
}


FIRST = ("half",)  # weights that differ in the last digit may round to other scores: only the first update is compared


def tuned(model: Any, tuning: str) -> Any:
    """The model as it is, or with an adapter that changes it from the start."""
    if tuning == "full":
        return model
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(copy.deepcopy(model), config)


def decided(row: list[Any]) -> tuple[Any, ...]:
    """The decision in a row of the trace, without the measured numbers."""
    return (*row[:3], *row[5:11], row[12])


def poisoned(samples: Sequence[Sample], bad: int) -> list[Sample]:
    """Token 2, which no other sample has, at the head of sample `bad`."""
    result = list(samples)
    result[bad] = Sample(samples[bad].number, samples[bad].tokens.clone(), samples[bad].prompt)
    result[bad].tokens[0] = 2
    return result


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_are_one_with_twice_the_accumulation(
    tiny_llama: Any, samples: list[Sample], tmp_path: Path, parallel: str, tuning: str
) -> None:
    tiny_llama.save_pretrained(tmp_path / "model")
    launched = subprocess.run(
        [*LAUNCHER, __file__, str(tmp_path), parallel, tuning],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[:6000]
    model = tuned(tiny_llama, tuning)
    assert not json.loads((tmp_path / "strangers.json").read_text()), "the host talks over the host's group alone"
    for name, (method, budget, options) in ON_TWO_PROCESSES[tuning].items():
        alone = run(cell_of(method, budget, options=options), model, samples)
        result = json.loads((tmp_path / f"{name}.json").read_text())
        if name in FIRST:
            trace = json.loads(json.dumps(alone.trace, default=bytes.hex))
            first, as_alone = ({decided(row) for row in rows if row[0] == 0} for rows in (result["trace"], trace))
            assert first == as_alone
            continue
        for key in ("samples", "samples_kept", "samples_asked", "tokens_kept", "tokens_asked", "response_tokens"):
            assert [r[key] for r in result["records"]] == [r[key] for r in alone.records], (name, key)
        assert [r["loss"] is None for r in result["records"]] == [r["loss"] is None for r in alone.records]
        for key in ("loss", "grad_norm"):
            ours, theirs = (
                [r[key] for r in records if r[key] is not None] for records in (result["records"], alone.records)
            )
            assert ours == pytest.approx(theirs, rel=1e-4), (name, key)
        trace = json.loads(json.dumps(alone.trace, default=bytes.hex))
        assert {decided(row) for row in result["trace"]} == {decided(row) for row in trace}, name
        weights = load_file(tmp_path / f"{name}.safetensors")
        assert apart(weights, alone.weights, model) <= CLOSE, name
        drift = load_file(tmp_path / f"{name}-other.safetensors")
        assert all(torch.equal(weights[name], drift[name]) for name in weights), "both processes hold the same weights"

    # one process alone meets the poison: both stop, and both say which sample
    bad = samples[json.loads((tmp_path / "poison.json").read_text())["bad"]].number
    for rank in (0, 1):
        assert f"samples [{bad}]" in (tmp_path / f"nonfinite-{rank}.txt").read_text()


def watch_the_host() -> list[str]:
    """Collectives that Python asks for, and not DDP or FSDP, and that are not of the host's group: GPUs would wait."""
    from torch import distributed

    strangers: list[str] = []

    def watched(name: str) -> Any:
        call = getattr(distributed, name)

        def ask(*arguments: Any, **named: Any) -> Any:
            group = named.get("group", arguments[0] if name == "barrier" and arguments else None)
            if group is None or group is not host_group():
                strangers.append(name)
            return call(*arguments, **named)

        return ask

    # (`shard` hands out weights over the GPUs' group once, at the start, and asks with broadcast_object_list)
    for name in ("all_reduce", "all_gather_object", "gather_object", "barrier"):
        setattr(distributed, name, watched(name))
    return strangers


def main(folder: Path, parallel: str, tuning: str) -> None:
    """What the launcher runs."""
    from transformers import AutoModelForCausalLM

    rank, sharded = int(os.environ["RANK"]), parallel == "fsdp"
    whole = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
    model = tuned(whole, tuning)
    samples = oracles.random_samples(SHAPES, seed=0)
    strangers = watch_the_host()
    for name, (method, budget, options) in ON_TWO_PROCESSES[tuning].items():
        result = run(cell_of(method, budget, options=options), model, samples, sharded)
        save_file(result.weights, folder / (f"{name}.safetensors" if rank == 0 else f"{name}-other.safetensors"))
        if rank == 0:
            facts = {"records": result.records, "trace": result.trace}
            (folder / f"{name}.json").write_text(json.dumps(facts, default=bytes.hex))
    (folder / "strangers.json").write_text(json.dumps(strangers))
    cell = cell_of("q-tuning", (0.5, 0.5))
    _, window = started(cell, model, samples, sharded)
    bad = window.batches[1][0]
    (folder / "poison.json").write_text(json.dumps({"bad": bad}))
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = math.nan
    try:
        run(cell, model, poisoned(samples, bad), sharded)
    except NonFinite as error:
        (folder / f"nonfinite-{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    run_as_worker(lambda: main(Path(sys.argv[1]), *sys.argv[2:]))
