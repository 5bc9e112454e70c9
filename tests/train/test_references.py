"""Reference models that are trained: which samples they see, what they say of the tokens, and how a cell uses them."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_cell import slowly, wait_for_updates
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from qtuning.data.prepare import prepare
from qtuning.data.samples import Sample, load_samples
from qtuning.errors import UserError
from qtuning.experiment.auxiliary import Part
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.references import references_of, with_references
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import canonical_json, write_json, write_text
from qtuning.train.references import part_positions, score_references

EVOLVING = {"samples": 30, "parts": 2}


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    """A folder with a base model of two layers and a train set of 20 samples."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    root = tmp_path_factory.mktemp("references")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    )
    words = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    build("llama", vocab_size=len(words), max_position_embeddings=128).save_pretrained(root / "base")
    words.save_pretrained(root / "base")
    write_json(root / "model" / "model.json", {"path": str(root / "base"), "revision": None, "source": {}})
    rows = [{"instruction": f"add {i} and {i % 7}", "output": f"it is {i + i % 7}"} for i in range(20)]
    write_text(root / "rows.jsonl", "\n".join(canonical_json(row) for row in rows))
    prepare(a_cell(root, "random+token-cleaning", {"samples": 30}), root / "base", root / "samples")
    return root


def a_cell(root: Path, method: str, reference: dict[str, Any], **training: Any) -> Cell:
    settings = {"tuning": "full", "epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "cutoff": 64} | training
    entry = MethodEntry(method=method, options={"reference": reference})
    return Cell(
        model=Model(name="tiny", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(name="rows", source=FileSource(kind="path", file=str(root / "rows.jsonl"))),
        pruning=make_pruning(entry, Ratios(sample_ratio=0.5, token_ratio=0.5)),
        training=Training(**settings),
        seeds=Seeds(data=3, pruner=3, init=3),
    )


def command(root: Path, cell: Cell, out: Path, *more: str) -> list[str]:
    name = cell_id(cell)
    write_text(out / f"{name}.json", cell_json(cell))
    arguments = ["--cell", out / f"{name}.json", "--model", root / "model", "--samples", root / "samples"]
    arguments += ["--out", out / "cells" / name, "--state", out / "state" / name, "--tracking", "disabled", *more]
    for reference in references_of(cell):
        arguments += ["--trained-reference", out / "cells" / cell_id(reference)]
    return [sys.executable, "-m", "qtuning.train", *map(str, arguments)]


def train(root: Path, cell: Cell, out: Path) -> dict[str, Any]:
    """Train a cell unless that is done; returns its marker."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command(root, cell, out), capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads((out / "cells" / cell_id(cell) / "train.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def evolved(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cell]:
    """A self-evolving cell and its references, trained."""
    out = tmp_path_factory.mktemp("evolved")
    cell = a_cell(ground, "random+self-evolving", EVOLVING)
    for each in with_references([cell]):
        train(ground, each, out)
    return out, cell


def nll(folder: Path, samples: list[Sample]) -> list[Tensor]:
    """Token NLL of the responses, from transformers' own logits in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for sample in samples:
        with torch.no_grad():
            logits = model(input_ids=sample.tokens[None]).logits[0, sample.prompt - 1 : -1].log_softmax(-1)
        found.append(-logits.gather(1, sample.tokens[sample.prompt :, None])[:, 0].double())
    return found


def described_places(gains: list[Tensor], samples: list[Sample]) -> list[list[float]]:
    """From the highest gain to the lowest: (rank + 1/2) / N, by sorting in plain Python."""
    rows = sorted(
        (-gain, sample.number, t, index)
        for index, (part, sample) in enumerate(zip(gains, samples, strict=True))
        for t, gain in enumerate(part.tolist())
    )
    places: list[list[float]] = [[0.0] * len(part) for part in gains]
    for rank, (_, _, t, index) in enumerate(rows):
        places[index][t] = (rank + 0.5) / len(rows)
    return places


@pytest.mark.parametrize("count", [2, 20, 1000])
def test_parts_divide_the_train_set(count: int) -> None:
    parts = [Part(samples=20, parts=4, seed=5, number=number) for number in range(5)]
    bounds = [part.bounds(count) for part in parts]
    assert bounds[0][0] == 0 and bounds[-1][1] == count
    assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))
    assert bounds[0][1] == max(1, round(0.2 * count))
    if count >= 20:
        found = torch.cat([part_positions(part, count) for part in parts])
        assert sorted(found.tolist()) == list(range(count))
        assert part_positions(parts[0], count).tolist() != list(range(bounds[0][1])), "drawn at random"
        other = Part(samples=20, parts=4, seed=6, number=0)
        assert not torch.equal(part_positions(other, count), part_positions(parts[0], count))
    else:
        with pytest.raises(UserError, match=r"options\.reference\.parts = 4: 2 samples do not make so many parts"):
            part_positions(parts[1], count)


def test_a_reference_is_a_cell_that_seeds_budgets_and_methods_share(ground: Path) -> None:
    cell = a_cell(ground, "random+token-cleaning", {"samples": 30})
    (reference,) = references_of(cell)
    assert reference.pruning is not None and reference.pruning.method == "full" and not references_of(reference)
    assert reference.training is not None and reference.training.epochs == 1
    other = a_cell(ground, "random+rho-1", {"samples": 30}).model_copy(
        update={"seeds": Seeds(data=1, pruner=1, init=1)}
    )
    assert references_of(other) == (reference,)
    again = Cell.model_validate_json(cell_json(cell))
    assert [cell_id(each) for each in with_references([again])] == [cell_id(each) for each in with_references([cell])]
    evolving = a_cell(ground, "random+self-evolving", EVOLVING)
    first, second = references_of(evolving)
    assert references_of(second) == (first,) and second.part is not None and second.part.number == 1
    whole = evolving.pruning.model_copy(update={"token_ratio": 1.0})  # type: ignore[union-attr]
    assert references_of(evolving.model_copy(update={"pruning": whole})) == ()


def test_influence_is_base_minus_reference_ranked_in_each_part(ground: Path, evolved: tuple[Path, Cell]) -> None:
    """Part 0 and 1 are scored by the reference tuned on part 0, part 2 by what went on over part 1."""
    out, cell = evolved
    samples = list(load_samples(ground / "samples"))
    folders = [out / "cells" / cell_id(reference) for reference in references_of(cell)]
    needs = {"token-influence"}
    places = ground / "base", ground / "samples", None, folders
    known, cost = score_references(cell, needs, samples, Accelerator(cpu=True), *places)
    assert known.influence is not None and cost.samples_scored == 2 * 20
    base = nll(ground / "base", samples)
    for number in range(3):
        mine = part_positions(Part(samples=30, parts=2, number=number), 20).tolist()
        tuned = nll(folders[max(0, number - 1)] / "weights", [samples[p] for p in mine])
        gains = [base[p] - after for p, after in zip(mine, tuned, strict=True)]
        found = torch.cat([known.influence[p] for p in mine])
        expected = torch.tensor([*itertools.chain(*described_places(gains, [samples[p] for p in mine]))])
        # rounding may exchange neighbours
        assert float((found - expected).abs().max()) <= 2.0 / len(expected) + 1e-9
        assert float((found - expected).abs().mean()) < 0.2 / len(expected)


def test_what_is_trained_is_accounted_and_the_references_with_it(evolved: tuple[Path, Cell]) -> None:
    out, cell = evolved
    first, second, last = (
        json.loads((out / "cells" / cell_id(each) / "train.json").read_text()) for each in (*references_of(cell), cell)
    )
    assert first["cost"]["flops_references"] == 0 and first["cost"]["samples_kept"] == 6
    assert second["cost"]["flops_references"] == first["cost"]["flops_total"]
    assert last["cost"]["flops_references"] == second["cost"]["flops_total"]
    own = last["cost"]["flops_scoring"] + last["cost"]["flops_training"]
    assert last["cost"]["flops_total"] == own + last["cost"]["flops_references"]
    assert len(last["inputs"]["references_sha256"]) == 2
    # part 1 has 7 samples, of whose tokens half are trained
    assert second["cost"]["samples_kept"] == 7
    assert abs(second["cost"]["tokens_kept"] - 0.5 * second["cost"]["response_tokens"]) <= 0.5


@pytest.mark.slow
def test_a_killed_cell_with_references_ends_the_same(ground: Path, evolved: tuple[Path, Cell], tmp_path: Path) -> None:
    out, cell = evolved
    shutil.copytree(out / "cells", tmp_path / "cells")
    name = cell_id(cell)
    for each in (cell, references_of(cell)[-1]):
        shutil.rmtree(tmp_path / "cells" / cell_id(each))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for each in (references_of(cell)[-1], cell):
        metrics = tmp_path / "state" / cell_id(each) / "metrics.jsonl"
        arguments = slowly(command(ground, each, tmp_path, "--checkpoint-seconds", "0"), 1)
        with subprocess.Popen(
            arguments, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            wait_for_updates(metrics, 2)
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "cells" / cell_id(each) / "train.json").exists()
        train(ground, each, tmp_path)
        one, other = (
            load_file(root / "cells" / cell_id(each) / "weights/model.safetensors") for root in (out, tmp_path)
        )
        assert all(one[key].equal(other[key]) for key in one)
    assert (tmp_path / "cells" / name / "train.json").exists()


def test_a_reference_that_is_missing_or_diverged_is_refused(
    ground: Path, evolved: tuple[Path, Cell], tmp_path: Path
) -> None:
    out, cell = evolved
    samples = list(load_samples(ground / "samples"))
    folders = [out / "cells" / cell_id(reference) for reference in references_of(cell)]

    def refused(given: list[Path]) -> str:
        with pytest.raises(UserError) as error:
            score_references(
                cell,
                {"token-influence"},
                samples,
                Accelerator(cpu=True),
                ground / "base",
                ground / "samples",
                None,
                given,
            )
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "--trained-reference: must be given 2 times" in refused(folders[:1])
    assert "is not trained, or its weights are gone" in refused([tmp_path / "a", folders[1]])
    write_json(tmp_path / "b" / "train.json", {"status": "diverged", "reason": "loss nan"})
    (tmp_path / "b" / "weights").mkdir()
    assert "the reference model diverged (loss nan)" in refused([tmp_path / "b", folders[1]])


@pytest.mark.slow
def test_an_adapter_goes_on_as_the_same_adapter(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "random+self-evolving", EVOLVING, tuning="lora")
    for each in with_references([cell]):
        train(ground, each, tmp_path)
    first, second = (
        load_file(tmp_path / "cells" / cell_id(reference) / "weights/adapter_model.safetensors")
        for reference in references_of(cell)
    )
    assert first.keys() == second.keys()
    moved = [float((first[key] - second[key]).abs().max()) for key in first]
    assert all(0 < step < 0.1 for step in moved), "a few steps from where the first one ended"
