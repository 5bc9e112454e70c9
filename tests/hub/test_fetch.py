"""Repositories fetched from a small hub on this machine, by the real huggingface_hub and datasets."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Hub
from huggingface_hub.utils.tqdm import enable_progress_bars

from qtuning.errors import UserError
from qtuning.experiment.ids import ResultPaths
from qtuning.files import read_json
from qtuning.hub.fetch import check_access, commit_of, ensure, look, prefetch, snapshot
from qtuning.hub.notes import notes_of_revisions
from qtuning.hub.offline import VARIABLES
from qtuning.hub.read import read_data_set
from qtuning.hub.repositories import Repository

WEIGHTS = os.urandom(300_000)
MODEL_FILES: dict[str, bytes | str] = {
    "config.json": '{"of": "config"}',
    "generation_config.json": '{"of": "generation_config"}',
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[:1000],
    "model.safetensors.index.json": '{"of": "model.safetensors.index"}',
    "tokenizer.json": '{"of": "tokenizer"}',
    "tokenizer.model": b"sentencepiece",
    "tokenizer_config.json": '{"of": "tokenizer_config"}',
    "special_tokens_map.json": '{"of": "special_tokens_map"}',
    "chat_template.jinja": "{{ messages }}",
    "merges.txt": "a b",
    "vocab.json": '{"of": "vocab"}',
}
UNWANTED: dict[str, bytes | str] = {
    "pytorch_model-00001-of-00002.bin": b"pickle",
    "training_args.bin": b"pickle",
    "modeling_tiny.py": "import os",
    "model.pt": b"pickle",
    "flax_model.msgpack": b"flax",
    "README.md": "# tiny",
    "consolidated.safetensors": b"again",
    "tekken.json": "{}",
    "original/consolidated.00.pth": b"pickle",
    "original/params.json": "{}",
    "onnx/model.onnx": b"onnx",
    "runs/model.safetensors": b"another",
}
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files:
  - {split: train, path: other/train-*}
dataset_info:
- config_name: main
  features:
  - {name: question, dtype: string}
  - {name: number, dtype: int32}
---
"""


def model(revision: str = "main", id: str = "owner/tiny") -> Repository:
    return Repository(kind="model", id=id, revision=revision)


def data_set(revision: str = "main", *subsets: str, id: str = "owner/sums") -> Repository:
    return Repository(kind="dataset", id=id, revision=revision, subsets=subsets)


def parquet(*rows: dict[str, Any]) -> bytes:
    import io

    import polars as pl

    file = io.BytesIO()
    pl.DataFrame(rows).write_parquet(file)
    return file.getvalue()


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a job: HF_HUB_OFFLINE=1 when the libraries were imported."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def paths(tmp_path: Path) -> ResultPaths:
    return ResultPaths(tmp_path / "results")


def test_a_model_comes_without_pickle_code_and_second_copies(
    local_hub: Hub, paths: ResultPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = local_hub.add("model", "owner/tiny", MODEL_FILES | UNWANTED)
    enable_progress_bars()  # another test of this process may have scored a file, which switches them off
    prefetch([model()], paths)
    shown = capsys.readouterr()
    assert f"1 of 1: model owner/tiny at main, which is now {commit[:12]}, 0.00 of 0.00 GB to fetch" in shown.out
    assert "100%" in shown.err, "huggingface_hub shows its progress"
    go_offline(monkeypatch)
    asked = len(local_hub.requests)
    folder, marker = snapshot(model(), paths.hub)
    assert {path.name for path in folder.iterdir()} == set(MODEL_FILES)
    assert set(local_hub.sent) == set(MODEL_FILES)
    assert (folder / "model-00001-of-00002.safetensors").read_bytes() == WEIGHTS
    assert marker["commit"] == commit == commit_of(model(), paths.hub)
    assert len(local_hub.requests) == asked, "nothing is asked of the hub any more"


def test_a_branch_is_resolved_once(local_hub: Hub, paths: ResultPaths, tmp_path: Path) -> None:
    first = local_hub.add("model", "owner/tiny", MODEL_FILES)
    prefetch([model()], paths)
    second = local_hub.add("model", "owner/tiny", MODEL_FILES | {"config.json": '{"moved": true}'})
    prefetch([model()], paths)
    assert commit_of(model(), paths.hub) == first
    shutil.rmtree(tmp_path / "hub-cache")  # as a cluster does with files that nobody has read for a month
    with pytest.raises(UserError, match=f"commit {first} is not, or not all of it, in .*hub-cache; type `qtuning pref"):
        snapshot(model(), paths.hub)
    prefetch([model()], paths)
    assert commit_of(model(), paths.hub) == first
    assert (snapshot(model(), paths.hub)[0] / "config.json").read_text() == MODEL_FILES["config.json"]
    prefetch([model()], other := ResultPaths(tmp_path / "other"))
    assert commit_of(model(), other.hub) == second
    assert snapshot(model(), paths.hub)[0].name == first, "another folder of results moves nothing"
    prefetch([model(first)], other)
    assert commit_of(model(first), other.hub) == first


def test_a_line_that_breaks_is_taken_up_where_it_broke(local_hub: Hub, paths: ResultPaths) -> None:
    """huggingface_hub counts in pieces of 10 MiB."""
    name, weights = "model-00001-of-00002.safetensors", WEIGHTS * 40
    local_hub.add("model", "owner/tiny", MODEL_FILES | {name: weights})
    local_hub.broken[name] = 11 * 2**20
    prefetch([model()], paths)
    assert (snapshot(model(), paths.hub)[0] / name).read_bytes() == weights
    assert local_hub.ranges == [(name, f"bytes={10 * 2**20}-")]
    assert local_hub.sent[name] == len(weights) + 2**20


def test_a_download_that_failed_keeps_the_files_that_it_has(local_hub: Hub, paths: ResultPaths, tmp_path: Path) -> None:
    commit = local_hub.add("model", "owner/tiny", MODEL_FILES)
    local_hub.failing.add("model-00002-of-00002.safetensors")
    with pytest.raises(UserError, match=r"model owner/tiny \(revision main\): cannot be had from the .* hub") as error:
        prefetch([model()], paths)
    assert "\n" not in str(error.value)
    assert commit_of(model(), paths.hub) is None
    there = {path.name for path in (tmp_path / "hub-cache/models--owner--tiny/snapshots" / commit).iterdir()}
    local_hub.failing.clear()
    prefetch([model()], paths)
    assert there
    assert {name: local_hub.sent[name] for name in there} == {name: len(MODEL_FILES[name]) for name in there}
    snapshot(model(), paths.hub)


def test_all_that_cannot_be_had_is_told_before_anything_is_fetched(
    local_hub: Hub, paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add("model", "owner/tiny", MODEL_FILES)
    local_hub.add("model", "meta/gated", MODEL_FILES, gated=True)
    local_hub.add("model", "owner/pickled", {"config.json": "{}", "pytorch_model.bin": b"pickle"})
    local_hub.add("dataset", "owner/gated-set", {"data.jsonl": '{"a": 1}\n'}, gated=True)
    table = parquet({"question": "1+1"})
    local_hub.add(
        "dataset", "owner/sums", {"README.md": CARD, "main/train-0.parquet": table, "main/test-0.parquet": table}
    )
    local_hub.add("dataset", "owner/code", {"code.py": "import os"})
    asked = [
        *(model(), model(id="meta/gated"), model(id="owner/pickled"), model("v2"), model("0" * 40)),
        *(model(id="owner/none"), model(id="no such/name/at all")),
        *(data_set(id="owner/gated-set"), data_set("main", "mian"), data_set(id="owner/code")),
    ]
    with pytest.raises(UserError) as error:
        check_access(asked, paths)
    lines = str(error.value).splitlines()
    accept = "is gated; accept its licence at https://huggingface.co"
    assert lines[:5] == [
        f"model meta/gated {accept}/meta/gated and log in with `hf auth login`",
        "model owner/pickled (main): has no safetensors weights, and pickled ones are not read; convert it with "
        "save_pretrained and write its folder as `id` in the model's YAML",
        "model owner/tiny: has no revision 'v2'",
        f"model owner/tiny: has no revision '{'0' * 40}'",
        lines[4],
    ]
    assert lines[4].startswith("model owner/none (revision main): cannot be had from the Hugging Face hub: 401")
    assert lines[5].startswith("model no such/name/at all (revision main): cannot be had")
    assert lines[6] == f"data set owner/gated-set {accept}/datasets/owner/gated-set and log in with `hf auth login`"
    assert "BuilderConfig 'mian' not found. Available: ['main', 'other']" in lines[7]
    assert lines[8].startswith("data set owner/code (revision main): cannot be had")
    assert len(lines) == 9
    with pytest.raises(UserError):
        prefetch(asked, paths)
    assert set(local_hub.sent) == {"README.md", "code.py"}, "what `datasets` looks at; it runs no code"
    assert not paths.hub.exists()
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # whose owner has accepted the licence
    prefetch([model(id="meta/gated"), data_set(id="owner/gated-set")], paths)
    assert read_data_set(data_set(id="owner/gated-set"), paths.hub)["train"].to_list() == [{"a": 1}]


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(local_hub: Hub, paths: ResultPaths) -> None:
    local_hub.add("model", "owner/tiny", MODEL_FILES)
    local_hub.claimed["model-00001-of-00002.safetensors"] = 10**15
    with pytest.raises(
        UserError, match=r"HF_HOME: 1000000\.0 GB are to be fetched into .*hub-cache, where .* GB are f"
    ):
        prefetch([model()], paths)
    assert local_hub.sent == {}


def test_only_the_files_of_a_subset_are_fetched_and_read_as_the_card_says(
    local_hub: Hub, paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"question": f"{n} + 1", "number": n + 1} for n in range(5)]
    files = {
        "README.md": CARD,
        "main/train-0.parquet": parquet(*rows[:2]),
        "main/train-1.parquet": parquet(*rows[2:4]),
        "main/test-0.parquet": parquet(*rows[4:]),
        "other/train-0.parquet": parquet(*rows),
    }
    commit = local_hub.add("dataset", "owner/sums", files)
    asked = data_set("main", "main")
    prefetch([asked], paths)
    assert set(local_hub.sent) == set(files) - {"other/train-0.parquet"}
    go_offline(monkeypatch)
    number = len(local_hub.requests)
    found = read_data_set(asked, paths.hub, "main")
    assert {split: part.to_list() for split, part in found.items()} == {"train": rows[:4], "test": rows[4:]}
    assert found["train"].features["number"].dtype == "int32", "as the card says, not int64 as the file does"
    assert len(local_hub.requests) == number
    assert read_json(paths.hub / f"{asked.identity}.json")["commit"] == commit


@pytest.mark.parametrize("name", ["data.json", "train.jsonl"])
def test_offline_the_commit_that_was_fetched_is_read_and_no_later_one(
    local_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`datasets` by itself reads, offline, whatever revision it prepared last."""

    def file(answer: str) -> str:
        rows = [{"instruction": "1 + 1", "output": answer}]
        return json.dumps(rows) if name == "data.json" else "".join(f"{json.dumps(row)}\n" for row in rows)

    local_hub.add("dataset", "owner/sums", {name: file("2")})
    prefetch([data_set()], old := ResultPaths(tmp_path / "old"))
    read_data_set(data_set(), old.hub)
    local_hub.add("dataset", "owner/sums", {name: file("two")})
    prefetch([data_set()], new := ResultPaths(tmp_path / "new"))
    go_offline(monkeypatch)
    answers = [read_data_set(data_set(), each.hub)["train"][0]["output"] for each in (new, old)]
    assert answers == ["two", "2"]


def test_what_was_not_fetched_is_one_line(
    local_hub: Hub, paths: ResultPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add("model", "owner/tiny", MODEL_FILES)
    go_offline(monkeypatch)
    with pytest.raises(UserError) as error:
        snapshot(model(), paths.hub)
    assert str(error.value) == (
        f"model owner/tiny (revision main): was not fetched ({paths.hub}/{model().identity}.json is missing); type "
        "`qtuning prefetch EXPERIMENT` on a machine with network"
    )
    with pytest.raises(UserError) as error:
        prefetch([model(), data_set()], paths)
    assert [line.partition(": is not in ")[0] for line in str(error.value).splitlines()] == [
        "model owner/tiny (revision main)",
        "data set owner/sums (revision main)",
    ]
    assert "HF_HUB_OFFLINE is set; unset it, or fetch with network and bring" in str(error.value)
    assert local_hub.requests == []


def test_a_cache_that_was_brought_along_serves_a_machine_without_network(
    local_hub: Hub, paths: ResultPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = local_hub.add("model", "owner/tiny", MODEL_FILES)
    from huggingface_hub import snapshot_download

    snapshot_download("owner/tiny")  # by hand, everything, and no marker
    go_offline(monkeypatch)
    found = look(model())
    assert (found.commit, set(found.sizes)) == (commit, set(MODEL_FILES))
    prefetch([model()], paths)
    assert commit_of(model(), paths.hub) == commit


def test_a_damaged_file_of_a_data_set_is_one_line(local_hub: Hub, paths: ResultPaths) -> None:
    local_hub.add("dataset", "owner/sums", {"data.json": "[{"})
    prefetch([data_set()], paths)
    with pytest.raises(UserError, match=r"data set owner/sums: .*snapshots.*: cannot be read: ") as error:
        read_data_set(data_set(), paths.hub)
    assert "\n" not in str(error.value)


def test_commands_of_a_user_fetch_what_is_missing_and_are_offline_otherwise(
    local_hub: Hub, paths: ResultPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.add("model", "owner/tiny", MODEL_FILES)
    for name in VARIABLES:
        monkeypatch.setenv(name, "0")
    ensure([None, model()], paths)
    assert commit_of(model(), paths.hub) is not None
    assert {os.environ[name] for name in VARIABLES} == {"0"}
    number = len(local_hub.requests)
    ensure([None, model()], paths)
    assert len(local_hub.requests) == number
    assert {os.environ[name] for name in VARIABLES} == {"1"}


def test_notes_name_every_commit_and_what_is_not_pinned(local_hub: Hub, paths: ResultPaths) -> None:
    commit = local_hub.add("model", "owner/tiny", MODEL_FILES)
    moving = local_hub.add("dataset", "owner/sums", {"data.jsonl": '{"a": 1}\n'})
    assert notes_of_revisions(paths.hub) == []
    prefetch([model(commit), data_set()], paths)
    first, second = notes_of_revisions(paths.hub, [model(commit), data_set(), model("not fetched")])
    assert first == f"From the hub: model owner/tiny {commit[:12]}, data set owner/sums {moving[:12]}."
    assert second == (
        f"Unpinned, so another fetch may give other files: data set owner/sums (main was {moving[:12]} when it was "
        "fetched); write the commit as revision."
    )
    assert notes_of_revisions(paths.hub, [model(commit)]) == [f"From the hub: model owner/tiny {commit[:12]}."]
    assert sorted(notes_of_revisions(paths.hub)[0].split()) == sorted(
        f"From the hub: data set owner/sums {moving[:12]}, model owner/tiny {commit[:12]}.".split()
    )
