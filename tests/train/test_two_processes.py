"""Two processes train as one with twice the accumulation.

Run as a script (`accelerate launch test_two_processes.py FOLDER`) it trains the cells of `ON_TWO_PROCESSES`.
"""

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
from loops import CLOSE, GLOBAL, SHAPES, apart, cell_of, run, started
from safetensors.torch import load_file, save_file

from qtuning.data.samples import Sample
from qtuning.scoring.scores import NonFinite
from qtuning.train.__main__ import run_as_worker

ROOT = Path(__file__).parents[2]
# Two processes: batches 0, 2, 4 of an epoch on the first and 1, 3 on the second, which has none in the last window.
# name -> method, budget, options; under `global` selection the decisions are those of one process, whatever the split
ON_TWO_PROCESSES: dict[str, tuple[str, tuple[float, float], dict[str, Any]]] = {
    "full": ("full", (1.0, 1.0), {}),
    "random": ("random", (0.5, 0.5), {}),
    "q-tuning": ("q-tuning", (0.5, 0.5), {}),
    "q-tuning-global": ("q-tuning", (0.5, 0.5), GLOBAL),
    "random-global": ("random", (0.25, 0.5), GLOBAL),
    "infobatch": ("infobatch+ppl", (0.5, 0.5), {}),
    "entropy": ("entropy+fastv", (0.5, 0.5), {}),
    "pool": ("q-tuning", (0.5, 0.5), {"scoring": {"schedule": "pool", "batches": 3}}),
    "pool-global": ("q-tuning", (0.5, 0.5), GLOBAL | {"scoring": {"schedule": "pool", "batches": 3}}),
    # batches of which nothing is kept: a process without tokens neither hangs nor changes the others
    "nothing": ("q-tuning", (0.25, 0.5), {"supplement": "none"}),
}


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
def test_two_processes_are_one_with_twice_the_accumulation(
    tiny_llama: Any, samples: list[Sample], tmp_path: Path
) -> None:
    tiny_llama.save_pretrained(tmp_path / "model")
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    config = ROOT / "configs" / "accelerate" / "ddp-2.yaml"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launched = subprocess.run(
        [*launch, "--config_file", str(config), __file__, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[:6000]
    for name, (method, budget, options) in ON_TWO_PROCESSES.items():
        alone = run(cell_of(method, budget, options=options), tiny_llama, samples)
        result = json.loads((tmp_path / f"{name}.json").read_text())
        for key in ("samples", "samples_kept", "samples_asked", "tokens_kept", "tokens_asked", "response_tokens"):
            assert [r[key] for r in result["records"]] == [r[key] for r in alone.records], (name, key)
        assert [r["loss"] is None for r in result["records"]] == [r["loss"] is None for r in alone.records]
        for key in ("loss", "grad_norm"):
            ours, theirs = (
                [r[key] for r in records if r[key] is not None] for records in (result["records"], alone.records)
            )
            assert ours == pytest.approx(theirs, rel=1e-4)
        trace = json.loads(json.dumps(alone.trace, default=bytes.hex))
        assert {decided(row) for row in result["trace"]} == {decided(row) for row in trace}
        weights = load_file(tmp_path / f"{name}.safetensors")
        assert apart(weights, alone.weights, tiny_llama) <= CLOSE
        drift = load_file(tmp_path / f"{name}-other.safetensors")
        assert all(torch.equal(weights[name], drift[name]) for name in weights), "both processes hold the same weights"

    # one process alone meets the poison: both stop, and both say which sample
    bad = samples[json.loads((tmp_path / "poison.json").read_text())["bad"]].number
    for rank in (0, 1):
        assert f"samples [{bad}]" in (tmp_path / f"nonfinite-{rank}.txt").read_text()


def main(folder: Path) -> None:
    """What `accelerate launch` runs."""
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM

    rank = Accelerator().process_index
    model = AutoModelForCausalLM.from_pretrained(folder / "model", attn_implementation="eager").eval()
    samples = oracles.random_samples(SHAPES, seed=0)
    for name, (method, budget, options) in ON_TWO_PROCESSES.items():
        result = run(cell_of(method, budget, options=options), model, samples)
        save_file(result.weights, folder / (f"{name}.safetensors" if rank == 0 else f"{name}-other.safetensors"))
        if rank == 0:
            facts = {"records": result.records, "trace": result.trace}
            (folder / f"{name}.json").write_text(json.dumps(facts, default=bytes.hex))
    cell = cell_of("q-tuning", (0.5, 0.5))
    _, window = started(cell, model, samples)
    bad = window.batches[1][0]
    (folder / "poison.json").write_text(json.dumps({"bad": bad}))
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = math.nan
    try:
        run(cell, model, poisoned(samples, bad))
    except NonFinite as error:
        (folder / f"nonfinite-{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    run_as_worker(lambda: main(Path(sys.argv[1])))
