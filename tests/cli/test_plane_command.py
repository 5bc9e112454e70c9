"""`qtuning plane` for real: the shipped model on small files, against the model's own logits."""

import json
import re
from inspect import signature
from math import exp
from pathlib import Path

import polars as pl
import pytest
from command_line import invoke
from scipy.stats import spearmanr
from typer.testing import Result

from qtuning.cli import look
from qtuning.errors import UserError
from qtuning.experiment.cell import Training
from qtuning.probes.score_file import score_file

ROOT = Path(__file__).parents[2]
QUESTIONS = [
    "What is 2 + 3?",
    "Who lives in the red house?",
    "Name the river of the north.",
    "Which is larger, 4 or 9?",
]


def plane(*arguments: str, tmp_path: Path) -> Result:
    """The command, with its outputs below tmp_path."""
    folders = ["--results", tmp_path / "results", "--out", tmp_path / "out", "--configs", ROOT / "configs"]
    return invoke("plane", *arguments, *folders)


def rows(count: int) -> list[dict[str, str]]:
    return [{"instruction": QUESTIONS[i % 4], "output": f"It is {i}, of {7 * i % 11} and more"} for i in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane")


@pytest.fixture(scope="module")
def scored(folder: Path) -> Result:
    """A file of 40 good rows and a bad one, at line 3."""
    lines = [json.dumps(row) for row in rows(40)]
    lines.insert(2, json.dumps({"instruction": "empty", "output": ""}))
    (folder / "small.jsonl").write_text("\n".join(lines))
    return plane("mini", str(folder / "small.jsonl"), tmp_path=folder)


def test_every_sample_is_scored_as_by_the_models_own_logits(scored: Result, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert scored.exception is None, scored.output
    table = pl.read_csv(folder / "out" / "mini-small.csv")
    assert table["row"].to_list() == [0, 1, *range(3, 41)] and table["line"].to_list() == [1, 2, *range(4, 42)]
    shipped = ROOT / "qtuning" / "assets" / "mini"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(shipped), AutoTokenizer.from_pretrained(shipped)
    for index in (0, 17, 39):
        row = rows(40)[index]
        prompt = f"Question: {row['instruction']}\nAnswer:"
        ids = tokenizer(f"{prompt} {row['output']}")["input_ids"]
        ids = [*ids, tokenizer.eos_token_id] if ids[-1] != tokenizer.eos_token_id else ids
        begin = len(ids) - table["response_tokens"][index]
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        nll = [-float(logp[t - 1, ids[t]]) for t in range(begin, len(ids))]
        entropy = [float(-(logp[t - 1].exp() * logp[t - 1]).sum()) for t in range(begin, len(ids))]
        assert table["ppl"][index] == pytest.approx(exp(sum(nll) / len(nll)), rel=1e-3)
        assert table["entropy"][index] == pytest.approx(sum(entropy) / len(entropy), rel=1e-3)


def test_it_prints_shares_thresholds_and_correlation(scored: Result, folder: Path) -> None:
    table = pl.read_csv(folder / "out" / "mini-small.csv")
    text = scored.output
    for quadrant in (1, 2, 3, 4):
        share = 100 * float((table["quadrant"] == quadrant).mean())  # type: ignore[arg-type]
        (line,) = [line for line in text.splitlines() if line.startswith(f"Q{quadrant} ")]
        assert f"{share:.1f}%" in line.split()[1]
    assert "40 scored of 41 rows (unusable: 1 empty response)" in text
    assert f"Spearman     {spearmanr(table['ppl'], table['entropy']).statistic:.2f} " in text
    assert table["kept"].sum() == 10 and "kept         10 samples" in text  # a quarter of 40
    added = table.filter("supplement")["quadrant_thresholds"]
    assert ("warning: most of what is kept" in text) == (len(added) > 5)
    for suffix in ("svg", "pdf", "png", "csv"):
        assert (folder / "out" / f"mini-small.{suffix}").stat().st_size > 1000


def test_it_says_where_the_supplement_is_nearly_all_that_is_kept(tmp_path: Path) -> None:
    """Answers that the model knows, and noise: error and uncertainty are low together or high together."""
    known = [{"instruction": "Where can you find the rebren?", "output": "the desert"}] * 20  # as the corpus tells
    noise = [{"instruction": QUESTIONS[1], "output": f"zq {i} xv ,, {i * i} kj ;; wq"} for i in range(20)]
    (tmp_path / "two.jsonl").write_text("\n".join(json.dumps(row) for row in known + noise))
    result = plane("mini", str(tmp_path / "two.jsonl"), tmp_path=tmp_path)
    table = pl.read_csv(tmp_path / "out" / "mini-two.csv")
    assert table["supplement"].sum() > table["kept"].sum() / 2
    assert "warning: most of what is kept is the supplement's, from " in result.output


def test_the_same_file_gives_the_same_bytes(scored: Result, folder: Path, tmp_path: Path) -> None:
    again = plane("mini", str(folder / "small.jsonl"), tmp_path=tmp_path)
    assert again.exception is None
    for path in (folder / "out").glob("mini-small.*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_chats_and_limits(folder: Path, tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]}
        for row in rows(30)
    ]
    (tmp_path / "my chats.json").write_text(json.dumps(chats))
    result = plane("mini", str(tmp_path / "my chats.json"), "--limit", "12", tmp_path=tmp_path)
    assert result.exception is None, result.output
    assert len(pl.read_csv(tmp_path / "out" / "mini-my-chats.csv")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("minni", "mini"), "model 'minni': no folder, no owner/name of the hub, .*; did you mean mini"),
        (("mini", "wizardl"), "data 'wizardl': no such file, .*; did you mean wizardlm"),
        (("mini", "mini", "--template", "alpacca"), "--template = 'alpacca': unknown; did you mean alpaca"),
        (("mini", "{folder}/columns.jsonl"), "columns.jsonl:1: has columns question, answer; expected instruction"),
        (("mini", "{folder}/none.jsonl"), "none.jsonl: has no row that is an object"),
        (("mini", "{folder}"), "holds more than one set .*; name a file or a pattern"),
        (("mini", "{folder}/text.txt"), "unknown file format"),
        (("{folder}", "{folder}/good.jsonl"), "is no model folder: config.json is missing"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "columns.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    (tmp_path / "none.jsonl").write_text("[1]\n")
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "good.jsonl").write_text(json.dumps(rows(1)[0]))
    result = plane(*(argument.format(folder=tmp_path) for argument in arguments), tmp_path=tmp_path)
    assert isinstance(result.exception, UserError)
    assert re.search(message, str(result.exception)) and "\n" not in str(result.exception)


def test_samples_are_cut_as_in_training() -> None:
    assert {signature(function).parameters["cutoff"].default for function in (look.plane, score_file)} == {
        Training().cutoff
    }
