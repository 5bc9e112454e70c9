"""Scores and gradients of a model that FSDP has sharded over two processes (gloo, CPU), against the whole model.

Run as a script (`torch.distributed.run test_sharded.py FOLDER`) it is one of the processes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracles
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from qtuning.data.samples import Sample
from qtuning.model.batch import Packed, pack
from qtuning.model.load import load_model
from qtuning.model.packed import PackedModel
from qtuning.scoring.scores import observe
from qtuning.train.__main__ import run_as_worker
from qtuning.train.sharding import shard

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def batches() -> list[list[Sample]]:
    """One of each process, of other sizes."""
    return [
        oracles.random_samples([(3, 9), (1, 4)], seed=1),
        oracles.random_samples([(2, 6), (5, 5), (1, 12)], seed=2),
    ]


def packed_of(samples: list[Sample]) -> Packed:
    packed = pack(samples, [torch.arange(sample.response_length) % 3 > 0 for sample in samples])
    assert packed is not None
    return packed


def scores_of(model: PackedModel, samples: list[Sample]) -> Tensor:
    scores = observe(model, samples, {"scores"}, None, CPU).scores
    assert scores is not None
    return torch.stack([scores.nll, scores.entropy])


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_two_processes_score_and_train_as_one(build: Any, tmp_path: Path, tied: bool) -> None:
    model = build("llama", tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")  # a model folder has one
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, tmp_path],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr[-3000:]
    whole = PackedModel(model).train()
    for samples in batches():
        whole(packed_of(samples))[0].backward()
    truth = {name: parameter.grad for name, parameter in whole.named_parameters()}
    for rank, samples in enumerate(batches()):
        scores = load_file(tmp_path / f"scores-{rank}.safetensors")["scores"]
        torch.testing.assert_close(scores, scores_of(whole, samples), rtol=0, atol=5e-6)
    gradients = load_file(tmp_path / "gradients.safetensors")
    assert gradients.keys() == truth.keys()
    for name, gradient in truth.items():
        assert gradient is not None
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-4)


def main(folder: Path) -> None:
    """What the launcher runs."""
    from torch import distributed
    from torch.distributed.tensor import DTensor

    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    loaded = load_model(folder / "model", "float32", empty=rank > 0)  # the first process alone has weights
    assert all(parameter.is_meta == (rank > 0) for parameter in loaded.parameters())
    model = PackedModel(loaded).train()
    shard(model, CPU)
    layers = model.causal_lm.model.layers
    samples = batches()[rank]
    save_file({"scores": scores_of(model, samples)}, folder / f"scores-{rank}.safetensors")
    assert all(isinstance(parameter, DTensor) for parameter in layers.parameters()), "sharded again after scoring"
    loss, _ = model(packed_of(samples))
    (loss * 2).backward()  # FSDP averages over processes
    parameters: dict[str, Any] = dict(model.named_parameters())
    gradients = {name: parameter.grad.full_tensor() for name, parameter in parameters.items()}
    if rank == 0:
        save_file(gradients, folder / "gradients.safetensors")


if __name__ == "__main__":
    run_as_worker(lambda: main(Path(sys.argv[1])))
