"""Training a cell as a process: outputs, resume after any death, refusals. The real thing on a tiny random model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from damage import damages
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.finished import WEIGHTS, check_outputs, marker_of
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import canonical_json, write_json, write_text
from qtuning.manifest import CHECKSUM, write_sealed
from qtuning.progress import read_progress
from qtuning.train.cell import OUTPUTS
from qtuning.train.launch import TOO_LARGE

SCHEDULES: dict[str, dict[str, Any]] = {
    "q-tuning in pools": {"schedule": "pool", "batches": 4, "compare_every": 1},  # 2 updates each
    "q-tuning with reused graphs": {"schedule": "reuse-graph"},
}
BUDGET = Ratios(sample_ratio=0.25, token_ratio=0.5)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model of two layers and a train set of 60 samples."""
    root = tmp_path_factory.mktemp("train")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    )
    word_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(word_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(root / "base")
    word_tokenizer.save_pretrained(root / "base")
    write_json(root / "model" / "model.json", {"path": str(root / "base"), "revision": None, "source": {}})
    LlamaForCausalLM(config).save_pretrained(root / "other")
    word_tokenizer.save_pretrained(root / "other")
    write_json(root / "reference" / "model.json", {"path": str(root / "other"), "revision": None, "source": {}})
    rows = [{"instruction": f"add {i} and {i % 7}", "output": f"the sum is {i + i % 7} and no more"} for i in range(60)]
    write_text(root / "rows.jsonl", "\n".join(canonical_json(row) for row in rows))
    prepare(a_cell(root, "full"), root / "base", root / "samples")
    return root


def a_cell(root: Path, method: str, **training: Any) -> Cell:
    settings = {"tuning": "full", "epochs": 3, "batch_size": 8, "learning_rate": 1e-2, "cutoff": 128} | training
    model = Model(name="tiny", label="Tiny", source=ShippedModelSource(kind="shipped"), parameters=1, template="plain")
    options: dict[str, Any] = {"reference": "tiny"} if method.endswith("rho-1") else {}
    if method in SCHEDULES:
        method, options = "q-tuning", {"scoring": SCHEDULES[method]}
    if method == "q-tuning by proxy":
        method, options = "q-tuning", {"scoring": {"schedule": "proxy", "compare_every": 4}, "proxy": "tiny"}
    return Cell(
        model=model,
        train_set=TrainSet(name="rows", label="Rows", source=FileSource(kind="path", file=str(root / "rows.jsonl"))),
        pruning=make_pruning(MethodEntry(method=method, options=options), BUDGET, models={"tiny": model}),
        training=Training(**settings),
        seeds=Seeds(data=0, pruner=0, init=0),
    )


def command(root: Path, cell: Cell, out: Path, *more: str) -> list[str]:
    write_text(out / "cell.json", cell_json(cell))
    arguments = ["--cell", out / "cell.json", "--model", root / "model", "--samples", root / "samples"]
    for role in ("reference", "proxy"):
        if getattr(cell.pruning, role) is not None:
            arguments += [f"--{role}", root / "reference"]
    arguments += ["--out", out / "out", "--state", out / "state" / "x", "--tracking", "disabled", *more]
    return [sys.executable, "-m", "qtuning.train", *map(str, arguments)]


def slowly(command: list[str], updates: int) -> list[str]:
    """A command that trains, to be killed after so many updates: from then on it takes its time."""
    module = command.index("qtuning.train")
    return [*command[: module - 1], str(Path(__file__).with_name("slowly.py")), str(updates), *command[module + 1 :]]


def run(root: Path, cell: Cell, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, cell, out, *more), capture_output=True, text=True, env=environment(), check=False
    )


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


def wait_for_updates(metrics: Path, count: int) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) >= count:
            return
        time.sleep(0.005)
    pytest.fail(f"{metrics} did not reach {count} updates")


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


def same(one: Path, other: Path) -> None:
    """Equal weights, metrics and traces, bit for bit."""
    left, right = (load_file(folder / "weights" / "model.safetensors") for folder in (one, other))
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].equal(right[name]), name
    assert records(one) == records(other)
    assert pl.read_parquet(one / "trace.parquet").equals(pl.read_parquet(other / "trace.parquet"))


@pytest.fixture(scope="module")
def uninterrupted(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    result = run(ground, a_cell(ground, "q-tuning"), out)
    assert result.returncode == 0, result.stderr
    return out / "out"


def test_outputs_are_whole_and_accounted(uninterrupted: Path) -> None:
    marker = json.loads((uninterrupted / "train.json").read_text())
    lines = records(uninterrupted)
    trace = pl.read_parquet(uninterrupted / "trace.parquet")
    assert marker["status"] == "done"
    assert marker["updates"] == len(lines) == 3 * 8  # 60 samples in batches of 8, 3 epochs
    cost = marker["cost"]
    assert cost["samples_scored"] == trace.height == 180
    assert cost["samples_kept"] == trace["kept"].sum() == sum(line["samples_kept"] for line in lines)
    assert cost["tokens_kept"] == trace["kept_tokens"].sum() == sum(line["tokens_kept"] for line in lines)
    assert cost["response_tokens"] == trace["response_tokens"].sum()
    assert 0 < cost["flops_scoring"] < cost["flops_total"]
    assert 0 < cost["cpu_seconds"] < 1.5 * cost["seconds_total"]  # of one thread
    selection = marker["selection"]
    assert selection["samples_available"] == 180 and selection["tokens_available"] == cost["response_tokens"]
    assert selection["from_thresholds"] + selection["supplemented"] == pytest.approx(cost["samples_kept"] / 24)
    converged = sum(line["selection/converged"] for line in lines) / 24
    assert selection["converged"] == pytest.approx(converged)
    assert any("converged" in text for text in marker["warnings"]) == (converged < 0.5)
    assert selection["supp_ties"] == sum(line["selection/supp_ties"] for line in lines) / 24
    # every batch of 8 keeps 2 samples, the last one of 4 keeps 1; more where the thresholds keep more (A6)
    assert [line["samples_asked"] for line in lines] == ([2] * 7 + [1]) * 3
    assert all(line["samples_kept"] >= line["samples_asked"] for line in lines)
    assert sorted(trace.filter(pl.col("epoch") == 0)["sample"]) == list(range(60))
    assert not (uninterrupted.parent / "state" / "x").exists()


def test_damage_to_what_training_left_is_noticed(uninterrupted: Path) -> None:
    """Wherever a bit flips or a file is cut, before anyone evaluates, replays or collects the cell."""
    check_outputs(uninterrupted, WEIGHTS, *OUTPUTS)
    marker = marker_of(uninterrupted)
    names = sorted(str(path.relative_to(uninterrupted)) for path in uninterrupted.rglob("*") if path.is_file())
    assert sorted([*marker["files"], "train.json"]) == names, "every file has a digest, but for the marker"
    for name in marker["files"]:
        for how in damages(uninterrupted / name, 3):
            for parts in (("cell.json", WEIGHTS, *OUTPUTS), *[(WEIGHTS,)] * name.startswith("weights")):
                with pytest.raises(UserError, match=rf"{re.escape(name)}: damaged .*; delete .*train\.json") as caught:
                    check_outputs(uninterrupted, *parts)
                assert "\n" not in str(caught.value), how
    for _ in damages(uninterrupted / "train.json", 20):
        try:
            assert marker_of(uninterrupted) == marker
        except UserError as error:
            assert "train.json: damaged" in str(error)  # noqa: PT017  # white space may differ
    check_outputs(uninterrupted, WEIGHTS, *OUTPUTS)


def test_finished_cell_is_left_alone(ground: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "train.json").stat().st_mtime_ns
    result = run(ground, a_cell(ground, "q-tuning"), uninterrupted.parent)
    assert result.returncode == 0
    assert "already done" in result.stdout
    assert (uninterrupted / "train.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(("death", "after"), [(signal.SIGKILL, 3), (signal.SIGKILL, 17), (signal.SIGTERM, 9)])
def test_killed_cell_goes_on_to_the_same_result(
    ground: Path, uninterrupted: Path, tmp_path: Path, death: signal.Signals, after: int
) -> None:
    cell = a_cell(ground, "q-tuning")
    every_update = ("--checkpoint-seconds", "0") if death == signal.SIGKILL else ()
    with subprocess.Popen(
        slowly(command(ground, cell, tmp_path, *every_update), after),
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(tmp_path / "state" / "x" / "metrics.jsonl", after)
        process.send_signal(death)
    assert process.returncode != 0
    assert not (tmp_path / "out" / "train.json").exists()
    left = read_progress(tmp_path / "state" / "x.lock")
    assert (left.doing, left.total) == ("update", 24)
    newest = max((tmp_path / "state" / "x").glob("checkpoint-*"))
    saved = json.loads((newest / "state.json").read_text())["cost"][0]
    result = run(ground, cell, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "resumed" in result.stdout
    same(tmp_path / "out", uninterrupted)
    assert read_progress(tmp_path / "state" / "x.lock") is None
    assert "\r" not in result.stderr
    cost = json.loads((tmp_path / "out" / "train.json").read_text())["cost"]
    assert cost["cpu_seconds"] > saved["cpu_seconds"] > 0  # attempts add up


@pytest.mark.slow
@pytest.mark.parametrize("method", ["infobatch+ppl", "entropy+fastv", "longest+rho-1", *SCHEDULES])
def test_what_a_pruner_knows_of_the_past_survives_a_kill(ground: Path, tmp_path: Path, method: str) -> None:
    """Losses of earlier updates, what was drawn for the epoch, losses of the reference model, decisions of a pool."""
    cell = a_cell(ground, method, epochs=4, batch_size=4)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(ground, cell, straight).returncode == 0
    with subprocess.Popen(
        slowly(command(ground, cell, killed, "--checkpoint-seconds", "0"), 7),
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(killed / "state" / "x" / "metrics.jsonl", 7)  # 4 an epoch
        process.send_signal(signal.SIGKILL)
    result = run(ground, cell, killed)
    assert result.returncode == 0 and "resumed" in result.stdout, result.stderr
    same(straight / "out", killed / "out")
    costs = [json.loads((folder / "out" / "train.json").read_text())["cost"] for folder in (straight, killed)]
    timed = ("seconds", "cpu_seconds", "peak_memory_bytes")
    assert len({canonical_json({k: v for k, v in cost.items() if not k.startswith(timed)}) for cost in costs}) == 1


def test_a_model_that_cannot_be_taken_apart_is_refused(ground: Path, tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast.from_pretrained(ground / "base")
    torch.manual_seed(0)
    # weights wide enough that attention matters
    config = BloomConfig(vocab_size=len(words), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    write_json(tmp_path / "model" / "model.json", {"path": str(tmp_path / "base"), "revision": None, "source": {}})
    arguments = command(ground, a_cell(ground, "q-tuning", epochs=1), tmp_path)
    arguments[arguments.index("--model") + 1] = str(tmp_path / "model")
    refused = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)
    assert refused.returncode == 2
    assert "BloomForCausalLM: the packed forward differs" in refused.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "train.json").exists()


def test_a_proxy_scores_once_in_place_of_the_model(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "q-tuning by proxy")
    result = run(ground, cell, tmp_path)
    assert result.returncode == 0, result.stderr
    marker = json.loads((tmp_path / "out" / "train.json").read_text())
    assert marker["cost"]["samples_scored"] == 60 and "reference_sha256" not in marker["inputs"]
    assert 0.0 <= marker["selection"]["agreement/samples_kept"] < 1.0, "another model decides otherwise"
    trace = pl.read_parquet(tmp_path / "out" / "trace.parquet")
    assert trace.group_by("sample").agg(pl.col("ppl").n_unique())["ppl"].to_list() == [1] * 60
    without = command(ground, cell, tmp_path / "again")
    at = without.index("--proxy")
    refused = subprocess.run(
        without[:at] + without[at + 2 :], capture_output=True, text=True, env=environment(), check=False
    )
    assert refused.returncode == 2 and "--proxy: required" in refused.stderr


def test_a_proxy_scores_as_scoring_says(ground: Path) -> None:
    """Each option makes another cell, so each must make a difference; a reference is none of its concerns."""
    from accelerate import Accelerator

    from qtuning.errors import UserError
    from qtuning.train.candidates import score_with_auxiliary

    samples = load_samples(ground / "samples").samples[:12]

    def scored(method: str, **scoring: str) -> torch.Tensor:
        cell = a_cell(ground, method)
        assert cell.pruning is not None
        changed = cell.pruning.scoring.model_copy(update=scoring)
        cell = cell.model_copy(update={"pruning": cell.pruning.model_copy(update={"scoring": changed})})
        role = "reference" if method.endswith("rho-1") else "proxy"
        # attention is had from the model that is trained
        needs = {"scores", "attention"}
        folders = ground / "reference", ground / "samples"
        scores, cost = score_with_auxiliary(role, *folders, samples, needs, Accelerator(cpu=True), cell)
        assert cost.samples_scored == 12 and len(scores.nll) == sum(sample.response_length for sample in samples)
        return scores.nll

    model = LlamaForCausalLM.from_pretrained(ground / "other").eval()
    with torch.no_grad():
        rows = [model(input_ids=s.tokens[None]).logits[0, s.prompt - 1 : -1].log_softmax(-1) for s in samples]
    labels = [sample.tokens[sample.prompt :, None] for sample in samples]
    truth = torch.cat([-row.gather(1, label)[:, 0] for row, label in zip(rows, labels, strict=True)]).double()
    exact = scored("q-tuning by proxy")
    torch.testing.assert_close(exact, truth, rtol=0, atol=1e-5)
    torch.testing.assert_close(scored("q-tuning by proxy", impl="reference"), truth, rtol=0, atol=1e-5)
    half = scored("q-tuning by proxy", precision="bfloat16")
    assert 1e-5 < float((half - truth).abs().max()) < 0.1
    with pytest.raises(UserError, match="liger': needs a GPU"):
        scored("q-tuning by proxy", impl="liger")
    assert scored("random+rho-1", precision="bfloat16", impl="liger").equal(exact)


def test_a_reference_of_another_tokenizer_is_refused(ground: Path, tmp_path: Path) -> None:
    report = json.loads((ground / "samples" / "report.json").read_text())
    del report[CHECKSUM]
    write_sealed(tmp_path / "samples" / "report.json", report | {"tokenizer_fingerprint": "of another"})
    (tmp_path / "samples" / "samples.parquet").write_bytes((ground / "samples" / "samples.parquet").read_bytes())
    arguments = command(ground, a_cell(ground, "random+rho-1"), tmp_path)
    arguments[arguments.index("--samples") + 1] = str(tmp_path / "samples")
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 2
    assert "options.reference = 'tiny': has another tokenizer" in result.stderr


def test_lora_cell_keeps_only_the_adapter_and_resumes(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "random+random", tuning="lora")
    assert run(ground, cell, tmp_path / "whole").returncode == 0
    with subprocess.Popen(
        slowly(command(ground, cell, tmp_path / "cut", "--checkpoint-seconds", "0"), 2),
        env=environment(),
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(tmp_path / "cut" / "state" / "x" / "metrics.jsonl", 2)
        process.kill()
    assert run(ground, cell, tmp_path / "cut").returncode == 0
    left, right = (
        load_file(tmp_path / name / "out" / "weights" / "adapter_model.safetensors") for name in ("whole", "cut")
    )
    assert all(left[name].equal(right[name]) for name in left)
    assert not (tmp_path / "whole" / "out" / "weights" / "model.safetensors").exists()
    ends = json.loads((tmp_path / "whole" / "out" / "weights" / "generation_config.json").read_text())["eos_token_id"]
    assert 1 in (ends if isinstance(ends, list) else [ends]), "the token that ends a turn of the template plain"


def test_lora_on_bfloat16_weights_is_trained_in_autocast(ground: Path, tmp_path: Path) -> None:
    """As on GPUs: every forward of the adapters must then be under autocast, the check before training included."""
    cell = a_cell(ground, "q-tuning", tuning="lora", mixed_precision="bf16", dtype="bfloat16", epochs=1)
    result = run(ground, cell, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "autocast bf16" in result.stdout
    adapter = load_file(tmp_path / "out" / "weights" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert any(bool(tensor.any()) for name, tensor in adapter.items() if "lora_B" in name), "it has learnt"


TOO_SMALL = """
import sys, torch
from qtuning.model.packed import PackedModel
from qtuning.train.__main__ import main
forward, passes = PackedModel.forward, []

def limited(model, packed, mode="loss", *more):
    passes.append(mode)
    if mode == "loss" and passes.count("loss") > 4:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return forward(model, packed, mode, *more)

PackedModel.forward = limited
main(sys.argv[1:])
"""


def test_out_of_memory_is_one_line_and_the_same_command_goes_on(
    ground: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """In the middle of training. Recomputed activations are the same numbers, bit for bit on a CPU."""
    arguments = command(ground, a_cell(ground, "q-tuning"), tmp_path, "--checkpoint-seconds", "0")
    small = [sys.executable, "-c", TOO_SMALL, *arguments[3:]]
    failed = subprocess.run(small, capture_output=True, text=True, env=environment(), check=False)
    told = failed.stderr.strip().splitlines()[-1]
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert told.startswith("error: out of memory in training: 2 samples, ") and "Tried to allocate 2.00 GiB" in told
    assert told.endswith("the same command goes on from the last checkpoint, with activations recomputed")
    assert "out of memory" in json.loads((tmp_path / "out" / "failed.json").read_text())["reason"]
    assert (tmp_path / "state" / "x" / TOO_LARGE).is_file(), "by which `qtuning train` knows"
    result = subprocess.run([*arguments, "--recompute"], capture_output=True, text=True, env=environment(), check=False)
    assert result.returncode == 0, result.stderr
    assert "resumed             at update 4" in result.stdout and "activations         recomputed" in result.stdout
    same(tmp_path / "out", uninterrupted)
    marker = json.loads((tmp_path / "out" / "train.json").read_text())
    assert marker["decided"] == {"gradient_checkpointing": True, "schedule": "fresh"}
    assert marker["cell"] == json.loads((uninterrupted / "train.json").read_text())["cell"]
    assert not (tmp_path / "state" / "x").exists()


def test_diverged_cell_is_a_result_with_a_reason(ground: Path, tmp_path: Path) -> None:
    # a learning rate that overflows float32 within a few updates
    cell = a_cell(ground, "full", learning_rate=1e30, max_grad_norm=None, warmup=0)
    result = run(ground, cell, tmp_path)
    assert result.returncode == 0, result.stderr
    marker = json.loads((tmp_path / "out" / "train.json").read_text())
    assert marker["status"] == "diverged"
    assert "samples of the update" in marker["reason"]
    assert [path.name for path in (tmp_path / "out" / "weights").iterdir()] == ["generation_config.json"]


def test_an_update_that_does_not_divide_is_refused(ground: Path, tmp_path: Path) -> None:
    result = run(ground, a_cell(ground, "full", batch_size=8, update_samples=12), tmp_path)
    assert result.returncode == 2
    assert (
        result.stderr.strip()
        .splitlines()[-1]
        .startswith("error: training.update_samples = 12: batch_size 8 must divide it")
    )
    assert json.loads((tmp_path / "out" / "failed.json").read_text())["status"] == "failed"


def test_state_of_another_configuration_is_refused(ground: Path, tmp_path: Path) -> None:
    cell = a_cell(ground, "full")
    with subprocess.Popen(
        slowly(command(ground, cell, tmp_path, "--checkpoint-seconds", "0"), 2),
        env=environment(),
        stdout=subprocess.DEVNULL,
    ) as process:
        wait_for_updates(tmp_path / "state" / "x" / "metrics.jsonl", 2)
        process.kill()
    result = run(ground, a_cell(ground, "full", learning_rate=1e-3), tmp_path)
    assert result.returncode == 2
    assert "another configuration" in result.stderr
    assert cell_id(cell) != cell_id(a_cell(ground, "full", learning_rate=1e-3))
