"""Tasks: prompts, examples, lengths, and where their records come from."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_files as samples
import datasets
import pytest
from hub_server import Hub

from qtuning.errors import UserError
from qtuning.evaluation.tasks import TASKS, load_tasks, max_new_tokens
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation

ON_HUB = tuple(name for name, record in BENCHMARKS.items() if record.hub_id is not None)


def local(*benchmarks: str, **options: Any) -> Evaluation:
    return Evaluation(benchmarks=benchmarks or tuple(BENCHMARKS), source="data-dir", **options)


def prompts(task: Any, limit: int = 1) -> list[str]:
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return [request.args[0] for request in task.instances]


def test_prompts(data_dir: Path) -> None:
    tasks = load_tasks(local(fewshot=0), data_dir)
    assert prompts(tasks["arc_easy"])[0] == "Question: Which of these is number 0?\nAnswer:"
    assert prompts(tasks["gsm8k"])[0] == "Question: Ann has 0 plums and gets 1,000 more. How many?\nAnswer:"
    assert prompts(tasks["squad"])[0] == (
        "Background: The Ship No. 0 carries the red ropes.\nQuestion: What does ship 0 carry?\nAnswer:"
    )
    assert prompts(tasks["triviaqa"])[0] == "Question: Who wrote book 0?\nAnswer:"
    assert prompts(tasks["math"])[0] == "Question: What is $\\frac{1}{2}$ as a fraction?\nAnswer:"


def test_examples_come_from_the_training_split(data_dir: Path) -> None:
    tasks = load_tasks(local(fewshot=2), data_dir)
    gold = {
        "arc_easy": "Answer: thing",
        "arc_challenge": "Answer: thing",
        "gsm8k": "\n#### 1,50",
        "squad": "Answer: the red ropes\n\n",
        "triviaqa": "Answer: Smith-Jones 50",
        "math": "Answer: It is $x$, which is $\\boxed{\\frac{10",
        "retention": "Answer: thing",
    }
    for benchmark, task in tasks.items():
        text = prompts(task)[0]
        assert text.count("Question:") == 3
        assert text.count(gold[benchmark]) == 2


def test_own_numbers_of_examples(data_dir: Path) -> None:
    tasks = load_tasks(local(), data_dir)
    shown = {benchmark: prompts(task)[0].count("Question:") - 1 for benchmark, task in tasks.items()}
    assert shown == {
        "arc_easy": 0,
        "arc_challenge": 0,
        "gsm8k": 5,
        "squad": 0,
        "triviaqa": 0,
        "math": 0,
        "retention": 0,
    }


def test_definitions_of_arc_and_gsm8k_are_those_of_lm_eval(data_dir: Path) -> None:
    from lm_eval import tasks as builtin
    from lm_eval.tasks._yaml_loader import load_yaml

    folder = Path(builtin.__file__).parent
    tasks = load_tasks(local("arc_challenge", "arc_easy", "gsm8k"), data_dir)
    for benchmark, file in (("arc_easy", "arc"), ("arc_challenge", "arc"), ("gsm8k", "gsm8k")):
        original = load_yaml(folder / file / f"{benchmark}.yaml", resolve_func=True)
        assert original.get("num_fewshot", 0) == BENCHMARKS[benchmark].fewshot
        config = tasks[benchmark].config
        for key in set(original) - {"tag", "metadata", "generation_kwargs"}:
            if key != "filter_list":
                assert (getattr(config, key) or 0) == original[key], key
        assert [f["name"] for f in config.filter_list or []] == [f["name"] for f in original.get("filter_list", [])]
        if benchmark == "gsm8k":
            assert config.generation_kwargs == original["generation_kwargs"] | {"max_gen_toks": 256}


def test_lengths_of_generations(data_dir: Path) -> None:
    def lengths(**options: Any) -> list[int | None]:
        tasks = load_tasks(local("arc_easy", "gsm8k", "squad", "triviaqa", "math", **options), data_dir)
        return [max_new_tokens(task) for task in tasks.values()]

    assert lengths() == [None, 256, 64, 32, 512]
    assert lengths(max_length=200) == [None, 100, 64, 32, 100]
    assert lengths(max_new_tokens=77) == [None, 77, 77, 77, 77]
    with pytest.raises(UserError, match=r"evaluation\.max_new_tokens = 77: leaves no room"):
        lengths(max_new_tokens=77, max_length=77)


def test_order_is_that_of_the_configuration(data_dir: Path) -> None:
    assert list(load_tasks(local("math", "arc_easy", "squad"), data_dir)) == ["math", "arc_easy", "squad"]


def test_training_split_is_needed_for_examples_only(data_dir: Path) -> None:
    for path in data_dir.glob("*/train.jsonl.gz"):
        path.unlink()
    load_tasks(local(fewshot=0), data_dir)
    with pytest.raises(UserError, match=r"gsm8k/train\.jsonl\.gz: no such file"):
        load_tasks(local("gsm8k"), data_dir)
    samples.write_records(data_dir, "gsm8k", "train", samples.gsm8k(3))
    with pytest.raises(UserError, match=r"3 records, but prompts show 5 examples; lower evaluation\.fewshot"):
        load_tasks(local("gsm8k"), data_dir)


def test_changed_file_is_noticed_and_no_cache_is_filled(data_dir: Path) -> None:
    path = data_dir / "triviaqa" / "validation.jsonl.gz"
    times = path.stat()
    cached = sorted(Path(datasets.config.HF_DATASETS_CACHE).rglob("*"))
    first = prompts(load_tasks(local("triviaqa"), data_dir)["triviaqa"])
    samples.write_records(data_dir, "triviaqa", "validation", samples.triviaqa(6, offset=7))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = prompts(load_tasks(local("triviaqa"), data_dir)["triviaqa"])
    assert (first, second) == (["Question: Who wrote book 0?\nAnswer:"], ["Question: Who wrote book 7?\nAnswer:"])
    assert sorted(Path(datasets.config.HF_DATASETS_CACHE).rglob("*")) == cached


@pytest.fixture
def hub(local_hub: Hub, tmp_path: Path) -> Path:
    """All benchmarks on a hub, fetched from it; the folder that says what was fetched."""
    splits = ("train", "validation", "test")

    def numbered(make: Callable[[int, int], samples.Records], start: int) -> dict[str, samples.Records]:
        return {split: make(6, start + 10 * place) for place, split in enumerate(splits)}

    def arc(n: int, offset: int) -> samples.Records:
        return samples.arc(n, 4, offset)

    subsets = {name: numbered(arc, start) for start, name in ((0, "ARC-Challenge"), (100, "ARC-Easy"))}
    samples.publish(local_hub, "arc_easy", subsets)
    samples.publish(local_hub, "gsm8k", {"main": numbered(samples.gsm8k, 0), "socratic": numbered(samples.gsm8k, 500)})
    samples.publish(local_hub, "squad", {"plain_text": numbered(samples.squad, 0)})
    trivia = {name: numbered(samples.triviaqa, start) for start, name in ((500, "rc"), (0, "rc.nocontext"))}
    samples.publish(local_hub, "triviaqa", trivia)
    fields = {name: numbered(samples.math, 100 * place) for place, name in enumerate(BENCHMARKS["math"].subsets)}
    samples.publish(local_hub, "math", fields)
    return samples.fetch_benchmarks(tmp_path / "results", *ON_HUB)


def test_the_items_of_the_hub_are_asked(local_hub: Hub, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the right subset, split and commit, and without asking the hub again: a GPU job may have no network."""
    asked = len(local_hub.requests)
    tasks = load_tasks(Evaluation(benchmarks=ON_HUB, source="hub"), None, hub)
    assert len(local_hub.requests) == asked
    assert {name.partition("/")[0] for name in local_hub.sent if name.endswith(".parquet")} == {
        *("ARC-Easy", "ARC-Challenge", "main", "plain_text", "rc.nocontext"),
        *BENCHMARKS["math"].subsets,
    }
    first = {name: prompts(task)[0].splitlines()[-2] for name, task in tasks.items()}
    assert first["arc_easy"] == "Question: Which of these is number 120?"
    assert first["arc_challenge"] == "Question: Which of these is number 20?"
    assert first["gsm8k"] == "Question: Ann has 20 plums and gets 1,000 more. How many?"
    assert first["squad"] == "Question: What does ship 10 carry?"
    assert first["triviaqa"] == "Question: Who wrote book 10?"
    assert len(BENCHMARKS["math"].subsets) == 7
    documents = tasks["math"].eval_docs
    assert len(documents) == 7 * 6
    assert len(set(documents["problem"])) == 7 * 6  # every subset once, none twice


def test_our_definitions_name_the_data_sets_that_are_fetched() -> None:
    for name in ("squad", "triviaqa", "math"):
        text = (TASKS / f"{name}.yaml").read_text()
        assert f"dataset_path: {BENCHMARKS[name].hub_id}\n" in text


@pytest.mark.parametrize("source", ["hub", "data-dir"])
def test_the_papers_protocol_asks_other_items_in_the_same_words(
    source: str, local_hub: Hub, data_dir: Path, tmp_path: Path
) -> None:
    """Both sources have the same validation split: five questions with four choices, and one with three."""
    names = ("arc_easy", "arc_challenge")
    mixed = [*samples.arc(5, 4, 700), *samples.arc(1, 3, 800)]
    for name in names:
        samples.write_records(data_dir, name, "validation", mixed)
    rows = {"train": samples.arc(8, 4, 500), "validation": mixed, "test": samples.arc(6, 4)}
    samples.publish(local_hub, "arc_easy", {"ARC-Easy": rows, "ARC-Challenge": rows})
    hub = samples.fetch_benchmarks(tmp_path / "results", *names)
    evaluation = Evaluation(
        benchmarks=names,
        source=source,
        protocol="paper",
        fewshot=1,  # type: ignore[arg-type]
    )
    tasks = load_tasks(evaluation, None if source == "hub" else data_dir, hub)
    for task in tasks.values():
        asked = prompts(task, limit=99)[::4]
        assert [text.splitlines()[-2] for text in asked] == [
            f"Question: Which of these is number {700 + i}?" for i in range(5)
        ]
        assert all("Which of these is number 50" in text for text in asked), "examples are those of the training split"


@pytest.mark.parametrize("benchmark", ON_HUB)
def test_a_benchmark_that_was_not_fetched_is_one_line(benchmark: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_tasks(Evaluation(benchmarks=(benchmark,), source="hub"), None, tmp_path)
    message = str(error.value)
    record = BENCHMARKS[benchmark]
    assert message.startswith(f"{benchmark}: data set {record.hub_id} (revision {record.revision}): was not fetched")
    assert f"or give a folder that has {benchmark}/{record.split}.jsonl.gz with --config data_dir=DIR" in message
    assert "\n" not in message
