"""A flipped bit or a cut, anywhere in what was written, is one line that names the file and what to delete."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from cell_folders import Folders
from damage import damages

from qtuning import manifest
from qtuning.data.prepare import prepare
from qtuning.data.samples import load_samples
from qtuning.errors import UserError
from qtuning.evaluation.run import summarise_items, write_scores
from qtuning.experiment.cell import Cell, FileSource, HubSource, Model, Pruning, Seeds, Training, TrainSet
from qtuning.experiment.ids import evaluation_id
from qtuning.files import read_json, write_json, write_text
from qtuning.manifest import FILES, read_sealed, write_sealed
from qtuning.model.load import make_ready, verified_model
from qtuning.store.collect import collect
from qtuning.store.store import Store, write_store

VALUE = {"status": "done", "loss": 0.1, "numbers": [1, 2.5, None], "nested": {"b": True, "a": "text \u00e9"}, FILES: {}}


def refused(read: Callable[[], Any], path: Path, how: str, remedy: str) -> None:
    """Reading raises one line that names the file and the remedy."""
    with pytest.raises(UserError) as caught:
        read()
    told = str(caught.value)
    assert "\n" not in told and path.name in told and remedy in told, (how, told)


def same_or_refused(read: Callable[[], bool], path: Path, how: str, remedy: str) -> bool:
    """The same: of JSON, white space is no part of the value. Returns whether reading was refused."""
    try:
        same = read()
    except UserError:
        refused(read, path, how, remedy)
        return True
    assert same, how
    return False


def test_json_is_what_was_written_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "marker.json"
    write_sealed(path, VALUE)
    assert read_sealed(path, "again") == VALUE

    def same() -> bool:
        return read_sealed(path, "again") == VALUE

    assert sum(same_or_refused(same, path, how, "); again") for how in damages(path, 200)) > 300


def test_what_an_older_version_wrote_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    older = {key: value for key, value in VALUE.items() if key != FILES}
    write_json(tmp_path / "train.json", older)
    assert read_sealed(tmp_path / "train.json", "again") == older
    for _ in range(2):
        manifest.tell_unverified(str(tmp_path))
    assert capsys.readouterr().err == (
        f"{tmp_path}: written by an older version, without digests: damage would not be noticed\n"
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Any]) -> Path:
    """A tiny model with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: place for place, token in enumerate([*alphabet, "</s>"])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    build("llama", vocab_size=257, max_position_embeddings=128).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    return folder


def test_base_model(base: Path, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    make_ready(Model(name="tiny", source=HubSource(id=str(base))), ready)
    assert verified_model(ready) == base
    names = set(read_json(ready / "model.json")[FILES])
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    for name in sorted(names):
        for how in damages(base / name, 8):
            refused(lambda: verified_model(ready), base / name, how, f"delete {ready / 'model.json'}")


def test_base_model_of_an_older_version(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_ready(Model(name="tiny", source=HubSource(id=str(base))), tmp_path)
    older = {key: value for key, value in read_json(tmp_path / "model.json").items() if key not in (FILES, "checksum")}
    write_json(tmp_path / "model.json", older)
    assert verified_model(tmp_path) == base
    for how in damages(base / "model.safetensors", 3):
        refused(lambda: verified_model(tmp_path), base, how, "model.json")
    assert not capsys.readouterr().err
    write_json(tmp_path / "model.json", older | {"sha256": None})  # of the hub
    assert verified_model(tmp_path) == base
    assert "without digests" in capsys.readouterr().err


def test_samples(base: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"add {i}", "output": f"the sum is {i}"} for i in range(30)]
    write_text(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)))
    cell = Cell(
        model=Model(name="tiny", source=HubSource(id=str(base)), template="plain"),
        train_set=TrainSet(name="rows", source=FileSource(kind="path", file=str(tmp_path / "rows.jsonl"))),
        pruning=Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1),
        training=Training(cutoff=64),
        seeds=Seeds(data=0, pruner=0, init=0),
    )
    out = tmp_path / "out"
    prepare(cell, base, out)
    assert len(load_samples(out)) == 30
    for name in ("samples.parquet", "tokens.int32"):
        for how in damages(out / name, 20):
            refused(lambda: load_samples(out), out / name, how, "delete ")
    for how in damages(out / "report.json", 20):
        same_or_refused(lambda: len(load_samples(out)) == 30, out / "report.json", how, f"delete {out}")
    (out / "tokens.int32").unlink()
    assert len(load_samples(out)) == 30, "made again"


@pytest.fixture
def evaluated(folders: Folders) -> Path:
    """The mini experiment, evaluated; returns one cell's folder of answers, as an evaluation writes it."""
    for cell in folders.grid.cells:
        folders.finish(cell)
    cell = folders.grid.cells[1]
    out = folders.folder(cell) / evaluation_id(folders.grid.evaluation)
    said = read_json(out / "scores.json")
    rows = [
        (name, item, f"{item:064d}", f"{item:016d}", metric, float((item * 7) % 3 == 0), "yes")
        for name, result in said["benchmarks"].items()
        for item in range(result["items"])
        for metric in result["metrics"]
    ]
    columns = ["benchmark", "item", "item_hash", "cluster", "metric", "score", "response"]
    items = pl.DataFrame(rows, schema=columns, orient="row")
    for name, result in said["benchmarks"].items():
        result |= summarise_items(name, items)
    for other in folders.grid.cells:  # the items of an experiment are the same
        path = folders.folder(other) / out.name / "scores.json"
        written = read_json(path)
        for name, result in written["benchmarks"].items():
            result["digest"] = said["benchmarks"][name]["digest"]
        write_json(path, written)
    write_scores(out, items, said)
    return out


def test_scores_and_answers(folders: Folders, evaluated: Path) -> None:
    table, _ = collect([folders.grid], folders.results)
    for how in damages(evaluated / "items.parquet", 10):
        refused(lambda: collect([folders.grid], folders.results), evaluated / "items.parquet", how, f"{evaluated}")
    for how in damages(evaluated / "scores.json", 10):
        same_or_refused(
            lambda: collect([folders.grid], folders.results)[0].equals(table),
            evaluated / "scores.json", how, f"delete {evaluated}",
        )  # fmt: skip


def test_means_are_those_of_the_answers(folders: Folders, evaluated: Path) -> None:
    scores = read_sealed(evaluated / "scores.json", "again")
    result = scores["benchmarks"]["gsm8k"]
    metric = result["headline"]
    for change, said in (
        ({"metrics": result["metrics"] | {metric: result["metrics"][metric] + 0.01}}, "but the mean of the answers is"),
        ({"items": result["items"] - 1}, "its items are not those"),
    ):
        changed = {**scores["benchmarks"], "gsm8k": result | change}
        write_sealed(evaluated / "scores.json", scores | {"benchmarks": changed})
        with pytest.raises(UserError, match=f"scores.json: damaged .*gsm8k: .*{said}.*delete"):
            collect([folders.grid], folders.results)
    older = {key: value for key, value in scores.items() if key != FILES}  # without digests, too
    changed = {**scores["benchmarks"], "gsm8k": result | {"metrics": {metric: 0.99}}}
    write_json(evaluated / "scores.json", older | {"benchmarks": changed})
    with pytest.raises(UserError, match=r"gsm8k: .*but the mean of the answers is"):
        collect([folders.grid], folders.results)


def test_a_result_of_another_cell(folders: Folders) -> None:
    for cell in folders.grid.cells:
        folders.finish(cell)
    mine, other = (folders.folder(cell) / "train.json" for cell in folders.grid.cells[1:3])
    mine.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match=r"train\.json: cell = .* is a result of another cell; delete"):
        collect([folders.grid], folders.results)


@pytest.mark.parametrize("name", ["scores", "cells", "items", "steps"])
def test_the_store_is_made_again(
    folders: Folders, evaluated: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_store([folders.grid], folders.results)
    path = folders.results / f"{name}.parquet"
    whole = path.read_bytes()
    for how in damages(path, 2):
        refused(lambda: Store(folders.results).read(name), path, how, "`qtuning tables EXPERIMENT` collects it anew")
        damaged = path.read_bytes()
        write_store([folders.grid], folders.results)
        assert path.read_bytes() == whole, how
        told = capsys.readouterr().err.splitlines()
        assert any(f"{path}: damaged" in line and "made anew" in line for line in told)
        path.write_bytes(damaged)
