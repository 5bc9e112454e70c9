"""Overlap of train sets and benchmarks against a brute-force count; normalisation; planted copies."""

import gzip
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import fetch_benchmarks, publish
from hub_server import Hub
from hypothesis import given
from hypothesis import strategies as st

from qtuning.data.contamination import OverlapCheck, checks_of, run_check
from qtuning.data.overlap import Index, words
from qtuning.errors import UserError
from qtuning.experiment.cell import FileSource, TrainSet
from qtuning.experiment.grid import ConfigFolder
from qtuning.files import canonical_json, file_digest

LETTERS = "abcde"
TEXT = st.lists(st.sampled_from(LETTERS), min_size=0, max_size=12)


def holds(text: list[str], piece: list[str]) -> bool:
    """Whether `piece` stands in `text`, word for word: every start is tried."""
    return any(text[start : start + len(piece)] == piece for start in range(len(text) - len(piece) + 1))


def pieces(text: list[str], n: int) -> list[list[str]]:
    """Distinct runs of n words."""
    found: list[list[str]] = []
    for start in range(len(text) - n + 1):
        if text[start : start + n] not in found:
            found.append(text[start : start + n])
    return found


@given(items=st.lists(TEXT, max_size=5), samples=st.lists(st.lists(TEXT, max_size=3), max_size=5), n=st.integers(1, 4))
def test_the_index_counts_what_brute_force_counts(items: Any, samples: Any, n: Any) -> None:
    index = Index(n)
    for item in items:
        index.add(item, short=True)
    shared = [index.scan(sample) for sample in samples]
    covered = index.covered()
    for number, item in enumerate(items):
        runs = pieces(item, n)
        in_sample = [[run for run in runs if any(holds(text, run) for text in sample)] for sample in samples]
        assert index.sizes[number] == len(runs)
        assert covered[number] == sum(any(run in found for found in in_sample) for run in runs)
        assert index.single[number] == max((len(found) for found in in_sample), default=0)
        whole = [bool(item) and not runs and any(holds(text, item) for text in sample) for sample in samples]
        assert (number in index.found) == any(whole)
        for place, result in enumerate(shared):
            assert (number in result) == (bool(in_sample[place]) or whole[place])
            if number in result:
                count, gram = result[number]
                assert count == len(in_sample[place])
                assert list(gram) in ([item] if whole[place] else in_sample[place])


@given(
    st.lists(st.text("abcxyz019", min_size=1, max_size=6), max_size=20),
    st.randoms(use_true_random=False),
    st.lists(st.sampled_from(list(string.punctuation + " \n\t“”–…")), min_size=1, max_size=4),
)
def test_case_and_punctuation_between_words_make_no_difference(tokens: Any, chance: Any, marks: Any) -> None:
    def disguise(token: str) -> str:
        cased = "".join(chance.choice((letter.lower(), letter.upper())) for letter in token)
        return "".join(chance.choices(marks, k=2)) + cased + " "

    assert words("".join(map(disguise, tokens))) == words(" ".join(tokens)) == tokens


def test_words_of_other_scripts_and_forms() -> None:
    assert words("Ça, c’est l'ﬁn: x_1 = ½·10³!") == ["ça", "c", "est", "l", "fin", "x", "1", "1", "2", "103"]
    assert words("e\u0301t\u00e9") == ["été"]  # composed and decomposed accents are one
    assert words("...") == words("") == []


def gz(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def sentence(seed: int, length: int) -> str:
    return " ".join(
        random.Random(seed).choices(["one", "red", "fish", "runs", "over", "the", "hill", "again"], k=length)
    )


def gsm8k(question: str, answer: str) -> dict:
    return {"question": question, "answer": f"{answer}\n#### 1"}


SHORT = "who runs over the hill"
TRAIN_SET = TrainSet(name="train", label="Train", source=FileSource(kind="data-dir", file="train.jsonl.gz"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six GSM8K items, of which a train set of four rows holds: a solution, five words of a question, a short one."""
    items = [
        gsm8k(sentence(1, 30), sentence(2, 30)),  # its solution is copied, in capitals and with other marks
        gsm8k(sentence(3, 30), sentence(4, 30)),  # 12 words of its question: one too few
        gsm8k(sentence(5, 30), sentence(6, 30)),  # 13 words of its question, across a line break
        gsm8k(SHORT, "so"),  # shorter than an n-gram in all its parts: found whole
        gsm8k("who runs under the hill", "so"),  # as short, not found
        gsm8k(sentence(7, 30), sentence(8, 30)),  # 13 words, but half in the prompt and half in the response
    ]
    gz(tmp_path / "gsm8k" / "test.jsonl.gz", items)
    question, three, five = sentence(7, 30).split(), sentence(3, 30).split(), sentence(5, 30).split()
    rows = [
        {"instruction": "Solve.", "output": sentence(2, 30).upper().replace(" ", ", ") + "!"},
        {"instruction": " ".join(["zebra", *three[5:17], "zebra"]), "output": "none"},
        {"instruction": "x", "input": " ".join(five[4:10]) + "\n" + " ".join(five[10:17]), "output": "none"},
        {"instruction": f"Tell me: {SHORT}?", "output": "nobody"},
        {"instruction": " ".join(question[:7]), "output": " ".join(question[7:13])},
        {"instruction": "no output"},
    ]
    gz(tmp_path / "train.jsonl.gz", rows)
    return tmp_path


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    job = OverlapCheck(TRAIN_SET, "data-dir", ("gsm8k",), **changes)
    return run_check(job, data_dir=folder)


def test_planted_overlap_is_found_and_nothing_else(folder: Path) -> None:
    report = run(folder)
    result = report["benchmarks"]["gsm8k"]
    assert (report["read"], report["unusable"], report["ngram"]) == (6, 1, 13)
    assert (result["items"], result["contaminated"], result["share"]) == (6, 3, 0.5)
    assert result["by_part"] == {"question": 2, "solution": 1}
    assert (result["short"], result["short_found"]) == (2, 1)
    assert result["copied"] == 2  # the solution and the short question; not the 13 words of 30
    example = result["example"]
    assert (example["item"], example["part"], example["line"]) == (0, "solution", 1)
    assert example["shared"] in sentence(2, 30)
    assert [entry["line"] for entry in result["top_sources"]] == [1, 3, 4]


def test_twelve_words_are_found_with_a_smaller_n(folder: Path) -> None:
    assert run(folder, ngram=12)["benchmarks"]["gsm8k"]["by_part"]["question"] == 3


def test_the_report_is_the_same_wherever_the_data_lie(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for name in ("train.jsonl.gz", "gsm8k/test.jsonl.gz"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_bytes((folder / name).read_bytes())
    assert canonical_json(run(copy)) == canonical_json(run(folder))


def test_the_name_of_a_report_tells_what_was_compared() -> None:
    job = OverlapCheck(TRAIN_SET, "data-dir", ("gsm8k", "math"))
    same = OverlapCheck(TRAIN_SET.model_copy(update={"label": "Another"}), "data-dir", ("math", "gsm8k"))
    assert job.name == same.name
    assert job.name.startswith("train-data-dir-")
    others = [
        OverlapCheck(TRAIN_SET, "data-dir", ("gsm8k",)),
        OverlapCheck(TRAIN_SET, "data-dir", ("gsm8k", "math"), 8),
    ]
    assert len({job.name, *(other.name for other in others)}) == 3
    assert job.path(Path("results")) == Path(f"results/contamination/{job.name}.json")


@pytest.mark.parametrize("experiments", [["mini", "mini-methods"], ["gemma-local"]])
def test_experiments_and_the_command_give_reports_the_same_name(experiments: Any, tmp_path: Path) -> None:
    """So that the workflow knows what the command will write."""
    configs = Path(__file__).parents[2] / "configs"
    data_dir = tmp_path if experiments == ["gemma-local"] else None
    folder = ConfigFolder(configs, data_dir)
    (job,) = checks_of(folder.expand(experiments)).values()
    by_hand = OverlapCheck(folder.train_set(job.train_set.name).drawn(0), job.source, tuple(reversed(job.benchmarks)))
    assert by_hand.name == job.name


def test_equal_contexts_are_one_text_and_all_their_items_are_contaminated(tmp_path: Path) -> None:
    context = sentence(1, 40)
    records = [
        {"context": context, "question": f"what is number {number}", "answers": {"text": ["one"]}}
        for number in range(5)
    ]
    gz(tmp_path / "squad" / "validation.jsonl.gz", records)
    gz(tmp_path / "train.jsonl.gz", [{"instruction": context, "output": "what is number 3"}])
    report = run_check(OverlapCheck(TRAIN_SET, "data-dir", ("squad",)), data_dir=tmp_path)
    result = report["benchmarks"]["squad"]
    # the short question is looked for whole, though its item is not short: it has a context
    assert (result["contaminated"], result["short"], result["by_part"]) == (5, 0, {"question": 1, "context": 5})
    assert result["top_sources"][0]["items"] == 5


def test_items_from_the_hub_are_those_of_local_files(folder: Path, local_hub: Hub, tmp_path: Path) -> None:
    with gzip.open(folder / "gsm8k" / "test.jsonl.gz") as lines:
        items = [json.loads(line) for line in lines]
    publish(local_hub, "gsm8k", {"main": {"train": items[:1], "test": items}})
    hub = fetch_benchmarks(tmp_path / "results", "gsm8k")
    report = run_check(OverlapCheck(TRAIN_SET, "hub", ("gsm8k",)), data_dir=folder, hub=hub)
    local = run(folder)
    assert local.pop("benchmark_files") == {"gsm8k": file_digest(folder / "gsm8k" / "test.jsonl.gz")}
    assert report == local | {"benchmark_source": "hub"}


def test_what_cannot_be_read_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder given"):
        run_check(OverlapCheck(TRAIN_SET, "data-dir", ("gsm8k",)), data_dir=None)
    with pytest.raises(UserError, match=r"math/test\.jsonl\.gz: no such file"):
        run_check(OverlapCheck(TRAIN_SET, "data-dir", ("math",)), data_dir=folder)
    gz(folder / "train.jsonl.gz", [])
    with pytest.raises(UserError, match="its source has no rows"):
        run(folder)
