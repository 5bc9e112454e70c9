"""Every file has the layout and the record format of the public set that it stands for."""

import gzip
import hashlib
import json
import re
import string
from collections import Counter
from pathlib import Path
from typing import Any

from mini_world import generate
from qtuning.data.sources import MINI_WORLD

PARTS = ["planted", *(f"{part}_{draw}" for part in ("train", "facts", "sums", "reading") for draw in range(5))]
LAYOUT = {
    "arc_easy": {"train", "validation", "test"},
    "arc_challenge": {"train", "validation", "test"},
    "gsm8k": {"train", "test"},
    "squad": {"train", "validation"},
    "triviaqa": {"train", "validation"},
    "math": {"train", "test"},
    "retention": {"test"},
    "sft": {f"{part}{end}" for part in PARTS for end in ("", "_ratings")},
    "pretrain": {"train"},
}
ARC_LABELS = ("ABCDE", "12345")
MATH_TYPES = {
    "Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory", "Prealgebra",
}  # fmt: skip


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def test_layout_and_manifest(world_dir: Path, rows: Any) -> None:
    found: dict[str, set[str]] = {}
    for name in rows:
        benchmark, split = name.split("/")
        found.setdefault(benchmark, set()).add(split)
    assert found == LAYOUT
    manifest = json.loads((world_dir / "manifest.json").read_text())
    assert manifest["files"].keys() == {f"{name}.jsonl.gz" for name in rows}
    for name, records in rows.items():
        entry = manifest["files"][f"{name}.jsonl.gz"]
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        assert entry == {"records": len(records), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_same_seed_same_bytes_other_seed_other_world(world_dir: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again")
    generate(tmp_path / "other", seed=1)
    for path in world_dir.rglob("*.*"):
        name = path.relative_to(world_dir)
        assert (tmp_path / "again" / name).read_bytes() == path.read_bytes(), name
        assert (tmp_path / "other" / name).read_bytes() != path.read_bytes(), name


def test_the_package_ships_what_the_generator_writes(world_dir: Path) -> None:
    """All but the corpus. Contents are compared, not compressed bytes, which depend on the build of zlib."""
    written = {str(path.relative_to(world_dir)) for path in world_dir.rglob("*.*")}
    shipped = {str(path.relative_to(MINI_WORLD)) for path in MINI_WORLD.rglob("*.*")}
    assert written - shipped == {"pretrain/train.jsonl.gz"} and shipped <= written
    manifest = json.loads((MINI_WORLD / "manifest.json").read_text())
    assert manifest == json.loads((world_dir / "manifest.json").read_text())
    for name in shipped - {"manifest.json"}:
        text = gzip.decompress((MINI_WORLD / name).read_bytes())
        assert hashlib.sha256(text).hexdigest() == manifest["files"][name]["sha256"], name


def test_arc(rows: Any) -> None:
    for benchmark in ("arc_easy", "arc_challenge", "retention"):
        seen = []
        for split in LAYOUT[benchmark]:
            for record in rows[f"{benchmark}/{split}"]:
                assert record.keys() == {"id", "cluster", "question", "choices", "answerKey"}
                assert record["choices"].keys() == {"text", "label"}
                assert is_text(record["id"])
                assert is_text(record["question"])
                texts, labels = record["choices"]["text"], record["choices"]["label"]
                assert 3 <= len(texts) == len(labels) <= 5
                assert len(set(texts)) == len(texts)
                assert any("".join(labels) == alphabet[: len(labels)] for alphabet in ARC_LABELS)
                assert record["answerKey"] in labels
                seen.append(record["id"])
        assert len(set(seen)) == len(seen)


def test_arc_answers_are_in_no_favoured_place(rows: Any) -> None:
    for benchmark in ("arc_easy", "arc_challenge"):
        items = rows[f"{benchmark}/test"]
        places = Counter(item["choices"]["label"].index(item["answerKey"]) for item in items)
        assert max(places.values()) < 0.4 * len(items)


def test_gsm8k(rows: Any) -> None:
    for split in LAYOUT["gsm8k"]:
        for record in rows[f"gsm8k/{split}"]:
            assert record.keys() == {"question", "answer"}
            assert is_text(record["question"])
            rationale, mark, final = record["answer"].rpartition("\n#### ")
            assert mark
            assert re.fullmatch(r"\d+", final)
            assert "<<" in rationale


def test_squad(rows: Any) -> None:
    titles: dict[str, set[str]] = {}
    for split in LAYOUT["squad"]:
        for record in rows[f"squad/{split}"]:
            assert record.keys() == {"id", "title", "context", "question", "answers"}
            assert all(is_text(record[key]) for key in ("id", "title", "context", "question"))
            assert record["answers"].keys() == {"text", "answer_start"}
            for text, start in zip(record["answers"]["text"], record["answers"]["answer_start"], strict=True):
                assert record["context"][start : start + len(text)] == text
            titles.setdefault(split, set()).add(record["title"])
    assert titles["train"].isdisjoint(titles["validation"])


def test_triviaqa(rows: Any) -> None:
    for split in LAYOUT["triviaqa"]:
        for record in rows[f"triviaqa/{split}"]:
            assert record.keys() == {"question_id", "cluster", "question", "answer"}
            answer = record["answer"]
            assert answer.keys() == {"value", "aliases", "normalized_aliases"}
            assert answer["value"] in answer["aliases"]
            for alias in answer["normalized_aliases"]:
                assert alias == alias.lower()
                assert not set(alias) & set(string.punctuation)
                assert not {"a", "an", "the"} & set(alias.split()) or alias.split() == ["a"]


def test_math(rows: Any) -> None:
    for split in LAYOUT["math"]:
        for record in rows[f"math/{split}"]:
            assert record.keys() == {"problem", "level", "type", "solution"}
            assert re.fullmatch(r"Level [1-5]", record["level"])
            assert record["type"] in MATH_TYPES
            assert len(re.findall(r"\\boxed\{ \d+\}", record["solution"])) == 1


def test_a_cluster_is_two_wordings_of_one_question(rows: Any) -> None:
    """Same answer, other words; and no answer to a fact is asked in two clusters."""
    for name, answer in (("arc_easy/test", gold), ("arc_challenge/test", gold), ("triviaqa/validation", value)):
        clusters: dict[str, list[Any]] = {}
        for record in rows[name]:
            clusters.setdefault(record["cluster"], []).append(record)
        assert {len(records) for records in clusters.values()} <= {1, 2}
        pairs = [records for records in clusters.values() if len(records) == 2]
        assert len(pairs) > 0.6 * len(clusters)
        for first, second in pairs:
            assert answer(first) == answer(second)
            assert first["question"] != second["question"]
            # the subject is in both
            assert len(set(first["question"].split()) & set(second["question"].rstrip("?").split())) >= 1


def gold(record: Any) -> str:
    return record["choices"]["text"][record["choices"]["label"].index(record["answerKey"])]


def value(record: Any) -> str:
    return record["answer"]["value"]


def test_sft_and_pretrain(rows: Any) -> None:
    for draw in range(5):
        records = rows[f"sft/train_{draw}"]
        for record in records:
            assert record.keys() == {"id", "instruction", "input", "output", "kind", "topic", "errors"}
            assert is_text(record["instruction"])
            assert is_text(record["output"])
            assert isinstance(record["input"], str)
            assert all(0 <= start < end <= len(record["output"]) for start, end in record["errors"])
        assert len({record["id"] for record in records}) == len(records)
    assert all(record.keys() == {"text"} and is_text(record["text"]) for record in rows["pretrain/train"])


def test_draws_differ_in_the_noise_and_in_nothing_else(rows: Any) -> None:
    right, noise = [], []
    for draw in range(5):
        records = rows[f"sft/train_{draw}"]
        right.append({record["id"]: record for record in records if record["kind"] != "noise"})
        noise.append({record["id"] for record in records if record["kind"] == "noise"})
    assert all(other == right[0] for other in right)
    assert all(len(one & other) < 0.5 * len(one) for i, one in enumerate(noise) for other in noise[:i])
