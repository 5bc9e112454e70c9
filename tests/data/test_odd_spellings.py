"""Spellings of rows that people really have: the same samples as in the plainest spelling."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from qtuning.data.containers import read_file
from qtuning.data.parse import parse_row
from qtuning.data.rows import Example, Message, Reason, Refusal, Row
from qtuning.data.tokenise import Tokenised, tokenise
from qtuning.experiment.cell import FileSource, TrainSet

SET = TrainSet(name="t", label="T", source=FileSource(kind="path", file="t"))
MESSAGES = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
EXPECTED = Example((Message("user", "q"),), "a")


def parsed(path: Path) -> list[Example | Refusal]:
    return [parse_row(row, SET) for row in read_file(path)]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_parquet(tmp_path: Path, kind: Any) -> None:
    columns = {key: pa.array([text, text]).cast(kind) for key, text in (("instruction", "q"), ("output", "a"))}
    table = pa.table(columns | {"input": pa.nulls(2), "system": pa.nulls(2, kind), "tools": pa.nulls(2)})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert parsed(tmp_path / "t.parquet") == [EXPECTED] * 2


def test_conversations_of_parquet_have_all_keys_in_all_messages(tmp_path: Path) -> None:
    """Arrow gives each message the keys of all, as null; and a message, or a whole conversation, may be null."""
    call = pa.struct([("name", pa.string())])
    message = pa.struct(
        [("role", pa.string()), ("content", pa.large_string()), ("tool_calls", pa.list_(call)), ("weight", pa.int8())]
    )
    rows = [MESSAGES, [*MESSAGES, None], None, [MESSAGES[0], MESSAGES[1] | {"tool_calls": [{"name": "f"}]}]]
    table = pa.table({"messages": pa.array(rows, pa.list_(message)), "images": pa.nulls(4, pa.list_(pa.binary()))})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    found = parsed(tmp_path / "t.parquet")
    assert found[0] == EXPECTED
    reasons = [each.reason for each in found[1:] if isinstance(each, Refusal)]
    assert reasons == [Reason.NOT_AN_OBJECT, Reason.NOT_A_LIST, Reason.NOT_SUPPORTED]


def test_texts_may_hold_any_character_and_be_long(tmp_path: Path) -> None:
    odd = "\x00\x1b[2J\u2028\u2029\x85\r\n\ufeff🙂"
    long = "word " * 2_000_000  # 10 MB
    rows = [
        {"instruction": odd, "output": odd},
        {"instruction": "q", "output": long},
        {"instruction": "q", "output": "a"},
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=row is rows[0]) + "\r\n" for row in rows))
    first, second, third = parsed(path)
    assert first == Example((Message("user", odd),), odd)
    assert isinstance(second, Refusal) and second.reason is Reason.TOO_LARGE
    assert third == EXPECTED
    large = SET.model_copy(update={"max_row_bytes": 10**8})
    assert parse_row(Row("t", 2, rows[1]), large) == Example((Message("user", "q"),), long)


@pytest.mark.parametrize("change", [{}, {"pad_token": "<eos>"}, {"pad_token": None}, {"bos_token": None}])
def test_the_end_is_learned_whatever_pads(bpe_folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Where padding is the end token, collators that mask padding by its id hide the end of each answer, too."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    for key, value in change.items():
        setattr(tokenizer, key, value)
    (made,) = tokenise([("Question: q\nAnswer:", " a<eos>")], tokenizer, "plain", 100)
    assert isinstance(made, Tokenised)
    assert made.tokens[-1] == tokenizer.eos_token_id and made.prompt < len(made.tokens) - 1
    assert made.tokens.count(tokenizer.eos_token_id) == 1
