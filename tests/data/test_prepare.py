"""Preparation: what is stored, what is counted, what is refused. Through real files and real tokenizers."""

import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch
from rich.console import Console

from qtuning.data.forms import ROLES
from qtuning.data.prepare import prepare, print_summary
from qtuning.data.samples import load_samples
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, FileSource, HubSource, Model, Pruning, Seeds, Training, TrainSet
from qtuning.experiment.truth import KINDS
from qtuning.files import file_digest, read_json, write_json
from qtuning.manifest import CHECKSUM, FILES, digests_of, read_sealed, write_sealed

ANSWER = {"role": "assistant", "content": "Hello."}
ROWS = [{"instruction": f"What is {n}?", "input": "", "output": f"It is {n}.", "kind": "ab"[n % 2]} for n in range(100)]


def cell_for(train_set: TrainSet, *, template: Any = "plain", cutoff: int = 512, limit: int | None = None) -> Cell:
    return Cell(
        model=Model(name="m", label="M", source=HubSource(id="x"), parameters=1, template=template),
        train_set=train_set,
        limit_train=limit,
        pruning=Pruning(sample_pruner="random", token_pruner="none", sample_ratio=0.5, token_ratio=1),
        training=Training(cutoff=cutoff),
        seeds=Seeds(data=0, pruner=0, init=0),
    )


def train_set(path: Path, **keys: Any) -> TrainSet:
    return TrainSet(name="set", label="S", source=FileSource(kind="path", file=str(path)), **keys)


def numbers(folder: Path) -> list[int]:
    return [sample.number for sample in load_samples(folder)]


@pytest.fixture
def run(bpe_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    def go(rows_of: TrainSet, out: str = "out", **keys: Any) -> Path:
        prepare(cell_for(rows_of, **keys), bpe_folder, tmp_path / out)
        return tmp_path / out

    return go


def test_what_is_stored(run: Callable[..., Path], write: Any, bpe: Any) -> None:
    path = write("a.jsonl", ROWS)
    out = run(train_set(path))
    table = polars.read_parquet(out / "samples.parquet")
    assert table.schema == {
        "sample": polars.Int64,
        "line": polars.Int64,
        "id": polars.String,
        "kind": polars.String,
        "input_ids": polars.List(polars.Int32),
        "prompt_length": polars.Int32,
        "instruction_characters": polars.Int64,
        "instruction_entropy": polars.Float64,
    }
    assert table["sample"].to_list() == list(range(100))
    assert table["line"].to_list() == list(range(1, 101))
    assert table["kind"].to_list() == [row["kind"] for row in ROWS]
    for row, ids, prompt_length in zip(ROWS, table["input_ids"], table["prompt_length"], strict=True):
        assert bpe.decode(ids[:prompt_length].to_list()) == f"<bos>Question: {row['instruction']}\nAnswer:"
        assert bpe.decode(ids[prompt_length:].to_list()) == f" {row['output']}<eos>"


def test_planted_flaws_are_stored_and_counted(run: Callable[..., Path], write: Any, bpe: Any) -> None:
    """The same rows as without flaws under `limit_train`; what differs from them is what `errors` marks."""
    path, flaws = write("a.jsonl", ROWS), {"noise": 0.25, "slips": 0.25}
    plain, out = run(train_set(path), "plain", limit=40), run(train_set(path, planted=flaws), "out", limit=40)
    before, stored = load_samples(plain), load_samples(out)
    assert stored.errors is not None and stored.kinds is not None and before.kinds is None
    assert [sample.number for sample in stored] == [sample.number for sample in before]
    counts = {"noise": int((stored.kinds == KINDS.index("noise")).sum()), "clean": int((stored.kinds == 0).sum())}
    assert read_json(out / "report.json")["planted"] == counts | {"slips": counts.get("slips", 0)}
    assert counts == {"noise": 10, "clean": 30}
    for old, new, places in zip(before, stored, stored.errors, strict=True):
        assert (bpe.decode(old.tokens) != bpe.decode(new.tokens)) == bool(places)


@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_places_of_known_errors(run: Callable[..., Path], write: Any, bpe: Any, template: str) -> None:
    rows = [row | {"errors": [[6, 6 + len(str(n))]] if n % 2 else []} for n, row in enumerate(ROWS)]
    stored = load_samples(run(train_set(write("a.jsonl", rows), columns={"errors": "errors"}), template=template))
    for n, (sample, places) in enumerate(zip(stored, stored.errors, strict=True)):
        assert str(n) in bpe.decode(sample.tokens[list(places)]) if n % 2 else not places
        assert all(place >= sample.prompt for place in places)
    assert load_samples(run(train_set(write("a.jsonl", rows)), template=template)).errors is None, "unless asked for"


def test_the_report(run: Callable[..., Path], write: Any) -> None:
    repeated = [*ROWS, ROWS[3] | {"kind": "other", "input": None}, ROWS[4] | {"output": "one, two, three " * 200}]
    path = write("a.jsonl", [*repeated, {"instruction": "a"}])
    out = run(train_set(path), cutoff=100)
    report, samples = read_json(out / "report.json"), load_samples(out)
    assert (report["read"], report["bad"], report["usable"], report["used"]) == (103, 1, 102, 102)
    assert report["bad_by_reason"] == {"missing key": 1}
    (bad,) = report["bad_rows"]
    assert (bad["file"], bad["line"], bad["sample"], bad["reason"]) == (str(path), 103, 102, "missing key")
    assert "'output'" in bad["detail"]
    assert report["exact_duplicates"] == 1, "kind and a null input do not make a difference"
    assert report["truncated_responses"] == 1
    assert max(len(sample.tokens) for sample in samples) == 100
    for part, lengths in (
        ("prompt", np.array([sample.prompt for sample in samples])),
        ("response", np.array([sample.response_length for sample in samples])),
    ):
        told, ordered = report[f"{part}_tokens"], sorted(lengths.tolist())
        assert (told["min"], told["max"], told["total"]) == (ordered[0], ordered[-1], sum(ordered))
        assert told["median"] == (ordered[50] + ordered[51]) / 2
        position = 0.95 * 101
        low = int(position)
        assert told["p95"] == pytest.approx(ordered[low] + (position - low) * (ordered[low + 1] - ordered[low]))
    assert report["source"]["sha256"] == file_digest(path)
    assert re.fullmatch("[0-9a-f]{64}", report["tokenizer_fingerprint"])


def test_sample_numbers_count_bad_rows(run: Callable[..., Path], write: Any) -> None:
    out = run(train_set(write("a.jsonl", [ROWS[0], {"x": 1}, ROWS[2]]), bad_rows=0.5))
    assert numbers(out) == [0, 2]


def test_same_bytes_twice_and_equal_content_equal_fingerprint(run: Callable[..., Path], write: Any) -> None:
    path = write("a.jsonl", ROWS)
    first, second = run(train_set(path), "one"), run(train_set(path), "two")
    for name in ("samples.parquet", "report.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (run(train_set(path), "one") / "report.json").read_bytes() == (second / "report.json").read_bytes()
    reports = [
        read_json(run(train_set(write(f"b{s}", ROWS)), f"out{s}") / "report.json") for s in (".json", ".parquet")
    ]
    assert {report["data_fingerprint"] for report in reports} == {read_json(first / "report.json")["data_fingerprint"]}
    other = read_json(run(train_set(write("c.jsonl", ROWS[1:])), "three") / "report.json")
    assert other["data_fingerprint"] != reports[0]["data_fingerprint"]
    assert other["tokenizer_fingerprint"] == reports[0]["tokenizer_fingerprint"]


def test_limit_is_a_fixed_random_subset_in_order_and_nested(run: Callable[..., Path], write: Any) -> None:
    path = write("a.jsonl", ROWS)
    ids = {size: numbers(run(train_set(path), f"out{size}", limit=size)) for size in (1, 10, 50, 100, 500)}
    assert {size: len(kept) for size, kept in ids.items()} == {1: 1, 10: 10, 50: 50, 100: 100, 500: 100}
    assert all(kept == sorted(kept) for kept in ids.values())
    assert set(ids[1]) < set(ids[10]) < set(ids[50]) < set(ids[100])
    assert ids[10] != list(range(10))
    assert ids[10] == numbers(run(train_set(path), "again", limit=10))


def test_the_share_of_bad_rows(run: Callable[..., Path], write: Any) -> None:
    bad = {"instruction": "a", "output": None}
    run(train_set(write("a.jsonl", [*ROWS[:99], bad]), bad_rows=0.01))
    path = write("b.jsonl", [*ROWS[:97], bad, bad, {"output": "b"}])
    with pytest.raises(UserError) as error:
        run(train_set(path), "refused")
    message = str(error.value)
    assert "\n" not in message
    assert "set: 3 of 100 rows (3 %) are unusable, 1 % are allowed: 2 not a string, 1 missing key" in message
    assert f"{path}:98 not a string ('output' is null); {path}:99" in message
    assert f"{path}:100 missing key ('instruction'; the row has output)" in message
    assert message.endswith("; make these texts, or name others under `columns` in its YAML, or raise bad_rows")


def test_no_usable_row(run: Callable[..., Path], write: Any) -> None:
    path = write("a.jsonl", [{"question": "a", "answer": "b"}] * 3)
    with pytest.raises(UserError, match=r"none of its 3 rows is usable: 3 missing key.*`columns: \{instruction: KEY"):
        run(train_set(path, bad_rows=1.0))
    path = write("b.jsonl", ROWS)
    with pytest.raises(UserError, match=r"none of its 100 rows is usable: 100 response cut away.*training\.cutoff"):
        run(train_set(path, bad_rows=1.0), cutoff=4)
    path.write_text("\n")
    with pytest.raises(UserError, match="has no rows"):
        run(train_set(path))


def test_a_refused_set_leaves_no_marker_of_an_earlier_one(run: Callable[..., Path], write: Any, tmp_path: Path) -> None:
    path = write("a.jsonl", ROWS)
    out = run(train_set(path))
    write("a.jsonl", [{}])
    with pytest.raises(UserError):
        run(train_set(path))
    with pytest.raises(UserError, match="no finished train set"):
        load_samples(out)


def test_chat_rows_with_the_chat_template(run: Callable[..., Path], write: Any, bpe: Any) -> None:
    turns = [
        ("system", "refuse me"),
        ("user", "Hi."),
        ("assistant", "Hello."),
        ("user", "Bye."),
        ("assistant", "Goodbye."),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    path = write("a.jsonl", [{"messages": messages[1:]}, {"messages": messages}, {"messages": messages[1:3]}])
    out = run(train_set(path, format="chat", bad_rows=0.5), template="chat")
    report, first = read_json(out / "report.json"), load_samples(out).samples[0]
    assert report["bad_by_reason"] == {"refused by the chat template": 1}
    assert report["bad_rows"][0]["line"] == 2
    assert "no such system message" in report["bad_rows"][0]["detail"]
    assert (report["turn_end"], report["date"]) == ("<eos>", None)
    whole = "<|user|>\nHi.<eos>\n<|assistant|>\nHello.<eos>\n<|user|>\nBye.<eos>\n<|assistant|>\nGoodbye.<eos>"
    assert bpe.decode(first.tokens) == whole, "it ends where the turn ends"
    assert bpe.decode(first.tokens[first.prompt :]) == "Goodbye.<eos>"


def test_a_date_in_the_chat_template_is_the_same_every_day(
    tmp_path: Path, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import datetime

    from chat_templates import chat_template, save_tokenizer
    from transformers.utils import chat_template_utils

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2031, 5, 4)

    model = save_tokenizer(tmp_path / "model", "bytes", "<s>", template=chat_template("date"))
    rows = train_set(write("a.jsonl", [{"messages": [{"role": "user", "content": "Hi."}, ANSWER]}] * 3), format="chat")
    first = prepare(cell_for(rows, template="chat"), model, tmp_path / "first")
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    chat_template_utils._compile_jinja_template.cache_clear()
    assert prepare(cell_for(rows, template="chat"), model, tmp_path / "second") == first
    assert (first["date"], first["turn_end"]) == ("2024-07-26", "</s>")
    digests = {file_digest(tmp_path / name / "samples.parquet") for name in ("first", "second")}
    assert len(digests) == 1


def test_tokens_beyond_the_embeddings_are_told_before_training(tmp_path: Path, write: Any) -> None:
    """Where a row, and not the template, holds the token that the model was not resized for."""
    from chat_templates import chat_template, save_tokenizer

    from qtuning.data.tokenise import load_tokenizer

    model = save_tokenizer(tmp_path / "model", "bytes", "<s>", template=chat_template("date"))
    tokenizer = load_tokenizer(model)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(model)
    chats = [{"messages": [{"role": "user", "content": text}, ANSWER]} for text in ("Hi.", "Use <tool>.")]
    with pytest.raises(
        UserError, match=f"token ids up to {len(tokenizer) - 1}, but the model has {len(tokenizer) - 1} e"
    ):
        prepare(cell_for(train_set(write("a.jsonl", chats), format="chat"), template="chat"), model, tmp_path / "out")
    assert not (tmp_path / "out" / "report.json").exists()
    with pytest.raises(UserError, match=r"training\.cutoff = 9999: the model in .* has 4096 positions"):
        prepare(cell_for(train_set(write("b.jsonl", ROWS)), cutoff=9999), model, tmp_path / "out")


def test_sharegpt_rows_are_the_alpaca_rows_they_stand_for(run: Callable[..., Path], write: Any) -> None:
    """As OpenHermes-2.5 has them; and what is wrong with one is said in a line."""
    turns = [[("human", row["instruction"]), ("gpt", row["output"])] for row in ROWS]
    rows = [
        {"conversations": [{"from": who, "value": text} for who, text in pair], "source": "x", "system_prompt": None}
        for pair in turns
    ]
    first, second = (
        load_samples(run(train_set(write(name, content), format=form), out=form)).samples
        for name, content, form in (("a.jsonl", ROWS, "alpaca"), ("s.jsonl", rows, "sharegpt"))
    )
    assert [sample.tokens.tolist() for sample in first] == [sample.tokens.tolist() for sample in second]
    assert [sample.prompt for sample in first] == [sample.prompt for sample in second]
    bad = write("bad.jsonl", [*rows, {"conversations": [{"from": "narrator", "value": "a"}]}, {"conversations": "a"}])
    with pytest.raises(UserError) as error:
        run(train_set(bad, format="sharegpt"))
    assert str(error.value) == (
        "train set set: 2 of 102 rows (1.96 %) are unusable, 1 % are allowed: 1 unknown role, 1 not a list; "
        f"first: {bad}:101 unknown role (conversations[0]: 'narrator' (known: {', '.join(ROLES)})); "
        f"{bad}:102 not a list ('conversations' is a string); say whose turns these are: `roles: {{NAME: user}}` or "
        "`roles: {NAME: assistant}` in its YAML, or raise bad_rows"
    )


def test_other_columns_and_the_data_folder(bpe_folder: Path, tmp_path: Path, write: Any) -> None:
    rows = [{"question": row["instruction"], "answer": row["output"]} for row in ROWS]
    write("data/gsm8k/train.jsonl.gz", rows)
    source = FileSource(kind="data-dir", file="gsm8k/train.jsonl.gz")
    named = TrainSet(name="g", label="G", source=source, columns={"instruction": "question", "output": "answer"})
    prepare(cell_for(named), bpe_folder, tmp_path / "out", data_dir=tmp_path / "data")
    assert len(load_samples(tmp_path / "out")) == 100


def test_the_summary_fits_one_screen(bpe_folder: Path, tmp_path: Path, write: Any, capfd: Any) -> None:
    rows_of = train_set(write("a.jsonl", [*ROWS, {}]))
    report = prepare(cell_for(rows_of), bpe_folder, tmp_path / "out")
    print_summary(report, Console(width=80))
    text = "".join(capfd.readouterr())
    assert len(text.splitlines()) <= 24
    assert "unusable: missing key" in text
    assert "tokenising" not in text, "no progress bar where there is no terminal"


def test_load_gives_what_was_stored(run: Callable[..., Path], write: Any) -> None:
    out = run(train_set(write("a.jsonl", ROWS)))
    samples, table = load_samples(out), polars.read_parquet(out / "samples.parquet")
    assert len(samples) == len(list(samples)) == 100
    for sample, stored in zip(samples, table.iter_rows(named=True), strict=True):
        assert sample.tokens.dtype == torch.int64
        assert (sample.number, sample.prompt) == (stored["sample"], stored["prompt_length"])
        assert sample.tokens.tolist() == stored["input_ids"]
        assert sample.response_length == len(stored["input_ids"]) - stored["prompt_length"] >= 1


def test_the_statistics_of_the_instructions(run: Callable[..., Path], write: Any) -> None:
    """Of the instruction alone: no input, no template, no earlier turn. Characters are code points."""
    texts = {"aaaa": 0.0, "abab": math.log(2), "aabc": 1.5 * math.log(2), "Où?": math.log(3), "𝒳\n": math.log(2)}
    rows = [{"instruction": text, "input": "something else", "output": "b"} for text in texts]
    alpaca = load_samples(run(train_set(write("a.jsonl", rows)), "alpaca", template="alpaca"))
    turns = [
        ("system", "Be brief."),
        ("user", "First of all?"),
        ("assistant", "Yes."),
        ("user", ...),
        ("assistant", "b"),
    ]
    chats = [
        {"messages": [{"role": role, "content": text if content is ... else content} for role, content in turns]}
        for text in texts
    ]
    chat = load_samples(run(train_set(write("b.jsonl", chats), format="chat"), "chat", template="chat"))
    for samples in (alpaca, chat):
        assert samples.instruction_characters.tolist() == [4, 4, 4, 3, 2]
        assert samples.instruction_entropy.tolist() == pytest.approx(list(texts.values()), abs=1e-12)
        assert (samples.instruction_characters.dtype, samples.instruction_entropy.dtype) == (np.int64, np.float64)


def test_equal_character_counts_have_equal_entropy(run: Callable[..., Path], write: Any) -> None:
    """To the last bit, whatever the order of the characters: ties must stay ties."""
    letters = "a" * 3 + "b" * 5 + "c" * 7 + "d" * 11 + "e" * 2
    rows = [
        {"instruction": "".join(part), "output": "b"} for part in (letters, letters[::-1], letters[9:] + letters[:9])
    ]
    assert len(set(load_samples(run(train_set(write("a.jsonl", rows)))).instruction_entropy.tolist())) == 1


def without_digests(folder: Path) -> None:
    """Make the report what an older version wrote: without digests of the files and a checksum of its own."""
    report = read_json(folder / "report.json")
    write_json(folder / "report.json", {key: value for key, value in report.items() if key not in (FILES, CHECKSUM)})


def seal(folder: Path, **entries: Any) -> None:
    """Write the report anew, with these entries and the digests of the files as they are now."""
    report = read_sealed(folder / "report.json", "")
    digests = digests_of(folder, [folder / name for name in report[FILES]])
    write_sealed(folder / "report.json", report | entries | {FILES: digests})


def test_load_refuses_what_an_older_version_prepared(run: Callable[..., Path], write: Any) -> None:
    out = run(train_set(write("a.jsonl", ROWS)))
    without_digests(out)
    assert len(load_samples(out)) == 100, "without digests, but with all columns"
    polars.read_parquet(out / "samples.parquet").drop("instruction_entropy").write_parquet(out / "samples.parquet")
    with pytest.raises(UserError, match=r"prepared by an older version.*prepare the train set again \(delete .*out\)"):
        load_samples(out)


def test_load_refuses_what_does_not_belong_together(run: Callable[..., Path], write: Any) -> None:
    out = run(train_set(write("a.jsonl", ROWS)))
    written = (out / "report.json").read_text()
    (out / "report.json").write_text(json.dumps(json.loads(written) | {"used": 99}))
    with pytest.raises(UserError, match=r"report\.json: damaged \(its checksum differs\); prepare the train set again"):
        load_samples(out)
    (out / "report.json").write_text(written)
    seal(out, used=99)
    with pytest.raises(UserError, match=r"100 samples, but report\.json says 99"):
        load_samples(out)
    (out / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"samples\.parquet: damaged \(its digest differs\); prepare the train set"):
        load_samples(out)
    seal(out)
    with pytest.raises(UserError, match=r"samples\.parquet: damaged \((?!its digest).*\); prepare the train set"):
        load_samples(out)


needs_data = pytest.mark.skipif("QTUNING_DATA_DIR" not in os.environ, reason="QTUNING_DATA_DIR names no data folder")


@needs_data
@pytest.mark.parametrize(
    ("name", "columns"), [("alpaca", {}), ("gsm8k", {"instruction": "question", "output": "answer"})]
)
@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_real_data(bpe_folder: Path, tmp_path: Path, bpe: Any, name: str, columns: Any, template: str) -> None:
    import gzip

    data_dir = Path(os.environ["QTUNING_DATA_DIR"])
    source = FileSource(kind="data-dir", file=f"{name}/train.jsonl.gz")
    named = TrainSet(name=name, label=name, source=source, columns=columns)
    prepare(cell_for(named, template=template, cutoff=100_000), bpe_folder, tmp_path, data_dir=data_dir)
    samples, report = load_samples(tmp_path), read_json(tmp_path / "report.json")
    with gzip.open(data_dir / f"{name}/train.jsonl.gz", "rt", encoding="utf-8") as handle:
        rows = [json.loads(line) for line in handle]
    assert report["read"] == report["used"] == len(rows)
    assert report["bad"] == report["truncated_responses"] == 0
    key = columns.get("output", "output")
    written = {"plain": " {}<eos>", "alpaca": "{}<eos>", "chat": "{}<eos>"}[template]
    for sample in samples:
        response = bpe.decode(sample.tokens[sample.prompt :])
        expected = written.format(rows[sample.number][key])
        assert response == expected
