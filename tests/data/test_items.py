"""Bad files are named with line and key, before anything is loaded."""

import gzip
import json
from pathlib import Path
from typing import Any

import benchmark_files as samples
import pytest

from qtuning.data.items import asked_items, cluster_of, read_items
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS

GOOD: dict[str, dict[str, Any]] = {
    "arc_easy": samples.arc(1, 4)[0],
    "gsm8k": samples.gsm8k(1)[0],
    "squad": samples.squad(1)[0],
    "triviaqa": samples.triviaqa(1)[0],
    "math": samples.math(1)[0],
}


def test_items_come_back_as_written(tmp_path: Path) -> None:
    data_dir = samples.write_all(tmp_path)
    for name, benchmark in BENCHMARKS.items():
        records = read_items(data_dir, name)
        assert len(records) == 6
        with gzip.open(data_dir / name / f"{benchmark.split}.jsonl.gz", "rt") as lines:
            for record, line in zip(records, lines, strict=True):
                written = json.loads(line)
                assert record.pop("cluster", None) is None
                assert all(
                    value == written[key] or value.items() <= written[key].items() for key, value in record.items()
                )


def test_items_of_one_cluster_have_one_name(tmp_path: Path) -> None:
    records = [record | {"cluster": f"fact {i // 2}"} for i, record in enumerate(samples.arc(4, 4))]
    samples.write_records(tmp_path, "retention", "test", records)
    named = [cluster_of("retention", item, "hash") for item in read_items(tmp_path, "retention")]
    assert named[0] == named[1] != named[2] == named[3]
    passages = [record | {"context": "One passage."} for record in samples.squad(2)] + samples.squad(1)
    samples.write_records(tmp_path, "squad", "validation", passages)
    named = [cluster_of("squad", item, f"hash {i}") for i, item in enumerate(read_items(tmp_path, "squad"))]
    assert named[0] == named[1] != named[2]
    assert (
        cluster_of("gsm8k", samples.gsm8k(1)[0], "hash")
        == cluster_of("arc_easy", samples.arc(1, 4)[0], "hash")
        == "hash"
    )


def test_the_papers_protocol_asks_arcs_validation_questions_with_four_choices(tmp_path: Path) -> None:
    data_dir = samples.write_all(tmp_path)
    mixed = [*samples.arc(2, 4, 100), *samples.arc(1, 3, 200), *samples.arc(3, 4, 300), *samples.arc(2, 5, 400)]
    for name in ("arc_easy", "arc_challenge"):
        samples.write_records(data_dir, name, "validation", mixed)
        asked = [item["question"] for item in asked_items(name, "paper", data_dir)]
        assert asked == [item["question"] for item in mixed if len(item["choices"]["text"]) == 4]
        assert asked_items(name, "standard", data_dir) == read_items(data_dir, name, "test")
    for name in ("gsm8k", "squad", "triviaqa", "math"):
        assert asked_items(name, "paper", data_dir) == asked_items(name, "standard", data_dir) != []
    (data_dir / "arc_easy" / "validation.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"arc_easy/validation\.jsonl\.gz: no such file"):
        asked_items("arc_easy", "paper", data_dir)


@pytest.mark.parametrize(
    ("benchmark", "change", "message"),
    [
        ("arc_easy", {"answerKey": "E"}, "answerKey 'E' is none of the labels"),
        ("arc_easy", {"question": None}, "question: input should be a valid string"),
        ("arc_easy", {"choices": {"text": ["x", ""], "label": ["A", "B"]}}, "choices.text.1: string should have"),
        ("arc_easy", {"choices": {"text": ["x", "y", "z"], "label": ["A", "B"]}}, "3 choices.text, but 2"),
        ("gsm8k", {"answer": "It is 5."}, "answer: must end in '#### NUMBER'"),
        ("squad", {"answers": {"text": []}}, "answers.text: list should have at least 1 item"),
        ("squad", {"answers": {}}, "answers.text: field required"),
        ("triviaqa", {"answer": {"value": "x", "aliases": "x"}}, "answer.aliases: input should be a valid"),
        ("math", {"solution": "It is 5."}, "no answer in \\boxed{}"),
    ],
)
def test_bad_record(benchmark: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    good = GOOD[benchmark]
    path = samples.write_records(tmp_path, benchmark, "train", [good, good | change, good])
    with pytest.raises(UserError) as error:
        read_items(tmp_path, benchmark, "train")
    assert str(error.value).startswith(f"{path}: line 2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("benchmark", sorted(BENCHMARKS))
def test_missing_key_is_named(benchmark: str, tmp_path: Path) -> None:
    good = GOOD["arc_easy" if benchmark in ("arc_challenge", "retention") else benchmark]
    for key in (name for name, field in BENCHMARKS[benchmark].item.model_fields.items() if field.is_required()):
        samples.write_records(tmp_path, benchmark, "train", [{k: v for k, v in good.items() if k != key}])
        with pytest.raises(UserError, match=rf"line 1: {key}: field required"):
            read_items(tmp_path, benchmark, "train")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"squad/validation\.jsonl\.gz: no such file.*--config data_dir=DIR"):
        read_items(tmp_path, "squad", "validation")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = samples.write_records(tmp_path, "gsm8k", "test", samples.gsm8k(200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"test\.jsonl\.gz: damaged or cut short, read up to line \d+ \(Comp"):
        read_items(tmp_path, "gsm8k", "test")
    path.write_text("not gzip at all")
    with pytest.raises(UserError, match=r"line 1: invalid JSON \(Expecting value at column 1"):
        read_items(tmp_path, "gsm8k", "test")
    path.write_bytes(whole[:40] + bytes(80) + whole[120:])
    with pytest.raises(UserError, match=r"test\.jsonl\.gz: damaged or cut short, read up to "):
        read_items(tmp_path, "gsm8k", "test")


def test_files_without_records(tmp_path: Path) -> None:
    path = samples.write_records(tmp_path, "gsm8k", "test", [])
    with pytest.raises(UserError, match="holds no records"):
        read_items(tmp_path, "gsm8k", "test")
    with gzip.open(path, "wt") as lines:
        lines.write(json.dumps(GOOD["gsm8k"]) + "\n\n{broken\n")
    with pytest.raises(UserError, match=r"line 3: invalid JSON \(Expecting property name"):
        read_items(tmp_path, "gsm8k", "test")
    with gzip.open(path, "wb") as raw:
        raw.write(b'{"question": "\xff", "answer": "#### 1"}\n')
    with pytest.raises(UserError, match=r"line 1: invalid UTF-8"):
        read_items(tmp_path, "gsm8k", "test")
