"""LESS from warm-up to selection on the mini world, against autograd sample by sample and the formulas written out."""

import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qtuning.data.prepare import prepare
from qtuning.data.samples import Sample, load_samples
from qtuning.data.sources import MINI_WORLD
from qtuning.data.targets import target_examples
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, Model, Seeds, ShippedModelSource, Training, TrainSet
from qtuning.experiment.ids import ResultPaths, cell_json
from qtuning.experiment.influence import Measurement, measurement_of
from qtuning.experiment.methods import make_pruning
from qtuning.experiment.schema import MethodEntry, Ratios
from qtuning.files import read_json, write_text
from qtuning.model.load import load_model, make_ready, model_path
from qtuning.plan.lengths import Lengths
from qtuning.plan.shapes import from_config
from qtuning.plan.work import measuring_work
from qtuning.train.__main__ import main
from qtuning.train.gradients import random_signs
from qtuning.train.influence import load_influence, measure_influence

TARGETS = ("arc_easy", "gsm8k")
OPTIONS = {"dimension": 128, "examples": 2, "epochs": 2, "samples": 40, "targets": TARGETS, "source": "mini-world"}
SAMPLES = 20


def a_cell(method: str, **training: Any) -> Cell:
    options = {"influence": OPTIONS} if method.startswith("less") else {}
    settings = {"tuning": "full", "epochs": 2, "learning_rate": 1e-3, "cutoff": 256} | training
    part = "train_0"
    return Cell(
        model=Model(name="mini", source=ShippedModelSource(kind="shipped"), template="plain"),
        train_set=TrainSet(
            name="mini",
            source=FileSource(kind="mini-world", file=f"sft/{part}.jsonl.gz"),
            ratings=FileSource(kind="mini-world", file=f"sft/{part}_ratings.jsonl.gz"),
        ),
        limit_train=SAMPLES,
        pruning=make_pruning(MethodEntry(method=method, options=options), Ratios(sample_ratio=0.25, token_ratio=0.5)),
        training=Training(**settings),
        seeds=Seeds(data=0, pruner=0, init=0),
    )


def train(cell: Cell, paths: ResultPaths, *more: str) -> None:
    """As `qtuning train` does, in this process."""
    if not (paths.model(cell) / "model.json").exists():
        make_ready(cell.model, paths.model(cell))
    if not (paths.samples(cell) / "report.json").exists():
        prepare(cell, model_path(paths.model(cell)), paths.samples(cell))
    configuration = paths.root / "cell.json"
    write_text(configuration, cell_json(cell))
    folders = {"model": paths.model(cell), "samples": paths.samples(cell), "out": paths.cell(cell)}
    arguments = [f"--{name}={folder}" for name, folder in folders.items()]
    main([f"--cell={configuration}", f"--state={paths.state(cell)}", "--tracking=disabled", *arguments, *more])


@pytest.fixture(scope="module", autouse=True)
def signals() -> Iterator[None]:
    """Training handles signals in its own way; afterwards they are handled as before."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResultPaths, Measurement]:
    """A warm-up that is trained, and the influence by it."""
    paths = ResultPaths(tmp_path_factory.mktemp("influence"))
    measurement = measurement_of(a_cell("less+random"))
    assert measurement is not None
    train(measurement.warmup, paths)
    measure_influence(measurement, paths, None)
    return paths, measurement


def slow_features(checkpoint: Path, base: Path, samples: list[Sample], adam: bool) -> list[Tensor]:
    """Each sample's gradient by autograd alone through the model's own logits, Adam's formula, the explicit matrix."""
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(load_model(base, "float32"), str(checkpoint), is_trainable=True).eval()
    moments, found = load_file(checkpoint / "adam.safetensors"), []
    size = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    matrix = random_signs(0, size, 128, 0, torch.device("cpu"))
    for sample in samples:
        model.zero_grad()
        logits = model(input_ids=sample.tokens[None]).logits[0, sample.prompt - 1 : -1]
        torch.nn.functional.cross_entropy(logits, sample.tokens[sample.prompt :]).backward()
        parts = []
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            g = parameter.grad.double()
            if adam:
                m, v, step = (moments[f"optimizer.{key}.model.{name}"] for key in ("exp_avg", "exp_avg_sq", "step"))
                t = int(step) + 1
                m_hat = (0.9 * m.double() + 0.1 * g) / (1 - 0.9**t)
                v_hat = (0.999 * v.double() + 0.001 * g * g) / (1 - 0.999**t)
                g = m_hat / (v_hat.sqrt() + 1e-8)
            parts.append(g.flatten())
        found.append((torch.cat(parts).float() @ matrix).double())
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def test_influence_is_that_of_the_paper_computed_slowly(measured: tuple[ResultPaths, Measurement]) -> None:
    paths, measurement = measured
    warmup = measurement.warmup
    assert warmup.training is not None and warmup.training.tuning == "lora", "also where the cell trains all weights"
    samples = list(load_samples(paths.samples(warmup)))
    base = model_path(paths.model(warmup))
    table = pl.read_parquet(paths.influence(measurement.identity) / "influence.parquet")
    assert table["sample"].to_list() == [sample.number for sample in samples]
    targets = {
        name: [
            Sample(place, torch.tensor(example.tokens), example.prompt)
            for place, example in target_examples(name, MINI_WORLD, 2, 0, load_tokenizer(base), "plain", 256).items()
        ]
        for name in TARGETS
    }
    expected = {name: [0.0] * len(samples) for name in TARGETS}
    seen = [row["update"] for row in pl.read_ndjson(paths.cell(warmup) / "metrics.jsonl").to_dicts()]
    rates = pl.read_ndjson(paths.cell(warmup) / "metrics.jsonl")["learning_rate"].to_list()
    assert len(seen) == 2, "8 of 20 samples are one update an epoch"
    for epoch, rate in enumerate(rates, start=1):
        checkpoint = paths.cell(warmup) / "weights" / f"epoch-{epoch}"
        ours = slow_features(checkpoint, base, samples, adam=True)
        for name, examples in targets.items():
            theirs = slow_features(checkpoint, base, examples, adam=False)
            for row, feature in enumerate(ours):
                expected[name][row] += rate * sum(cosine(feature, other) for other in theirs) / len(theirs)
    for name in TARGETS:
        assert table[name].to_list() == pytest.approx(expected[name], rel=2e-3, abs=2e-6)
    last = (paths.cell(warmup) / "weights" / "adapter_model.safetensors").read_bytes()
    assert (checkpoint / "adapter_model.safetensors").read_bytes() == last


def test_the_same_bits_again(measured: tuple[ResultPaths, Measurement]) -> None:
    paths, measurement = measured
    folder = paths.influence(measurement.identity)
    before = (folder / "influence.parquet").read_bytes()
    (folder / "influence.json").unlink()
    measure_influence(measurement, paths, None)
    assert (folder / "influence.parquet").read_bytes() == before


def test_a_cell_keeps_the_samples_of_highest_influence_and_reports_what_it_cost(
    measured: tuple[ResultPaths, Measurement],
) -> None:
    paths, measurement = measured
    cell, folder = a_cell("less+random"), paths.influence(measurement.identity)
    for budget in (0.25, 0.5):
        assert cell.pruning is not None
        other = cell.model_copy(update={"pruning": cell.pruning.model_copy(update={"sample_ratio": budget})})
        assert measurement_of(other) == measurement, "all budgets share one measurement"
    train(cell, paths, f"--influence={folder}")
    table = pl.read_parquet(folder / "influence.parquet")
    best = table.with_columns(best=pl.max_horizontal(TARGETS)).sort("best", descending=True)["sample"].to_list()[:5]
    trace = pl.read_parquet(paths.cell(cell) / "trace.parquet").filter(pl.col("kept"))
    assert set(trace["sample"].to_list()) == set(best) and len(trace) == 10
    cost, made = read_json(paths.cell(cell) / "train.json")["cost"], read_json(folder / "influence.json")["cost"]
    assert cost["flops_references"] == made["flops"] + made["warmup_flops"] > 0
    assert cost["flops_total"] > cost["flops_references"]
    shape = from_config(read_json(model_path(paths.model(cell)) / "config.json"), "mini")
    sizes = [(sample.prompt, sample.response_length) for sample in load_samples(paths.samples(cell)).samples]
    tokenizer = load_tokenizer(model_path(paths.model(cell)))
    of_targets = [
        (example.prompt, len(example.tokens) - example.prompt)
        for name in TARGETS
        for example in target_examples(name, MINI_WORLD, 2, 0, tokenizer, "plain", 256).values()
    ]

    def planned(measurement: Measurement, sizes: list[tuple[int, int]]) -> float:
        prompts, responses = np.array(sizes, dtype=np.float64).T
        return measuring_work(measurement, shape, Lengths(prompts, responses, 1.0, "tokens")).training_flops

    # as samples of average length, which 4 target examples beside 20 samples are not
    assert planned(measurement, sizes) == pytest.approx(made["flops"], rel=0.2)
    no_targets = measurement.model_copy(update={"influence": measurement.influence.model_copy(update={"targets": ()})})
    assert planned(no_targets, sizes + of_targets) == pytest.approx(made["flops"], rel=0.01)


def test_what_is_missing_is_told_in_one_line(measured: tuple[ResultPaths, Measurement], tmp_path: Path) -> None:
    paths, measurement = measured
    samples = load_samples(paths.samples(measurement.warmup)).samples
    with pytest.raises(UserError, match="influence is not measured; run `qtuning influence`"):
        load_influence(tmp_path, samples)
    with pytest.raises(UserError, match="measured on other samples"):
        load_influence(paths.influence(measurement.identity), samples[1:])
    with pytest.raises(UserError, match="the warm-up is not trained"):
        measure_influence(measurement, ResultPaths(tmp_path), None)
    tokenizer = load_tokenizer(model_path(paths.model(measurement.warmup)))
    with pytest.raises(
        UserError, match=r"targets: gsm8k: its train split is needed.*no file [^\n]*gsm8k/train.jsonl.gz"
    ):
        target_examples("gsm8k", tmp_path, 2, 0, tokenizer, "plain", 256)
    with pytest.raises(UserError, match="examples = 9999: the train split of gsm8k has 900 items"):
        target_examples("gsm8k", MINI_WORLD, 9999, 0, tokenizer, "plain", 256)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["alpagasus+random", "deita+ppl", "ds2+none"])
def test_methods_that_read_ratings_train_on_the_mini_world(method: str, tmp_path: Path) -> None:
    cell, paths = a_cell(method), ResultPaths(tmp_path)
    train(cell, paths)
    trace = pl.read_parquet(paths.cell(cell) / "trace.parquet")
    kept = [set(trace.filter(pl.col("epoch") == epoch, pl.col("kept"))["sample"].to_list()) for epoch in range(2)]
    assert kept[0] == kept[1] and len(kept[0]) == 5
