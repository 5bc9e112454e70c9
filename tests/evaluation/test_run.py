"""The whole evaluation with a tiny random model: files, consistency, adapters, stops."""

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from benchmark_files import gsm8k, write_all, write_records
from polars.testing import assert_frame_equal

from qtuning.errors import UserError
from qtuning.evaluation import run
from qtuning.evaluation.generation import StopTexts
from qtuning.evaluation.likelihoods import metrics_of
from qtuning.evaluation.model import load_model
from qtuning.evaluation.tasks import load_tasks
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation
from qtuning.experiment.ids import evaluation_id
from qtuning.files import file_digest

Run = tuple[Path, dict[str, Any], Evaluation]


def run_tiny(model: Path, data: Path | None, out: Path, adapter: Path | None = None, **options: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "benchmarks": tuple(BENCHMARKS),
        "source": "data-dir",
        "max_new_tokens": 12,
        "fewshot": 0,
        "batch_size": 4,
    }
    evaluation = Evaluation(**settings | options)
    return run.evaluate_model(
        cell_id="tiny-zero-shot",
        base=model,
        adapter=adapter,
        evaluation=evaluation,
        out=out,
        data_dir=data,
    )


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    scores = run_tiny(tiny_model, write_all(folder / "data"), folder / "out")
    return folder, scores, Evaluation(**scores["evaluation"])


def test_files(finished: Run) -> None:
    folder, scores, evaluation = finished
    assert sorted(path.name for path in folder.iterdir()) == ["data", "out"]  # no temporary file is left
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["items.parquet", "scores.json"]
    written = json.loads((folder / "out" / "scores.json").read_text())
    assert written == scores | {
        "files": {"items.parquet": file_digest(folder / "out" / "items.parquet")}, "checksum": written["checksum"]
    }  # fmt: skip
    assert scores["cell"] == "tiny-zero-shot"
    assert scores["evaluation_id"] == evaluation_id(evaluation)
    assert scores["backend"]["name"] == "hf"
    assert scores["backend"]["batch_size"] == 4
    assert scores["backend"]["dtype"] == "float32"
    assert scores["backend"]["lm_eval"].startswith("0.")
    assert scores["seconds"] > 0


def test_scores_are_means_of_items(finished: Run) -> None:
    folder, scores, _ = finished
    items = polars.read_parquet(folder / "out" / "items.parquet")
    assert dict(items.schema) == {
        "benchmark": polars.String,
        "item": polars.Int64,
        "item_hash": polars.String,
        "cluster": polars.String,
        "metric": polars.String,
        "score": polars.Float64,
        "response": polars.String,
    }
    assert items.null_count().sum_horizontal().item() == 0
    assert list(scores["benchmarks"]) == list(BENCHMARKS)
    for benchmark, entry in scores["benchmarks"].items():
        assert entry["items"] == 6
        assert entry["headline"] == BENCHMARKS[benchmark].metric
        assert entry["headline"] in entry["metrics"]
        assert len(entry["digest"]) == 64
        for metric, value in entry["metrics"].items():
            mine = items.filter((polars.col("benchmark") == benchmark) & (polars.col("metric") == metric))
            assert mine["item"].to_list() == list(range(6))
            assert mine["score"].mean() == pytest.approx(value, abs=1e-12)
    assert len(items) == 6 * sum(len(entry["metrics"]) for entry in scores["benchmarks"].values())


def test_chosen_options_explain_the_scores(finished: Run) -> None:
    from benchmark_files import arc

    items = polars.read_parquet(finished[0] / "out" / "items.parquet").filter(
        (polars.col("benchmark") == "arc_easy") & polars.col("metric").is_in(["acc", "acc_norm", "choice"])
    )
    records = arc(6, 4)
    chosen = set()
    for row in items.iter_rows(named=True):
        choices, key = records[row["item"]]["choices"], records[row["item"]]["answerKey"]
        assert (row["response"] == choices["text"][choices["label"].index(key)]) == bool(row["score"])
        chosen.add(row["response"])
    assert len(chosen) > 1


def test_all_benchmarks_in_one_process_equal_each_alone(finished: Run, tiny_model: Path, tmp_path: Path) -> None:
    folder, scores, _ = finished
    together = polars.read_parquet(folder / "out" / "items.parquet")
    for benchmark in ("arc_easy", "squad"):
        alone = run_tiny(tiny_model, folder / "data", tmp_path / benchmark, benchmarks=(benchmark,))
        items = polars.read_parquet(tmp_path / benchmark / "items.parquet")
        # log-likelihoods move in their last digit with the prompts that share a forward
        assert_frame_equal(items, together.filter(polars.col("benchmark") == benchmark), rel_tol=1e-5)
        assert alone["benchmarks"][benchmark]["digest"] == scores["benchmarks"][benchmark]["digest"]


def test_a_limit_asks_a_part_of_the_same_items(finished: Run, tiny_model: Path, tmp_path: Path) -> None:
    folder, scores, _ = finished
    few = run_tiny(tiny_model, folder / "data", tmp_path / "out", limit=2, benchmarks=("arc_easy", "gsm8k"))
    assert [entry["items"] for entry in few["benchmarks"].values()] == [2, 2]
    assert few["evaluation_id"] != scores["evaluation_id"]
    assert few["benchmarks"]["gsm8k"]["digest"] != scores["benchmarks"]["gsm8k"]["digest"]
    items = polars.read_parquet(tmp_path / "out" / "items.parquet")
    whole = polars.read_parquet(folder / "out" / "items.parquet")
    same = items.join(whole, on=["benchmark", "item", "metric"], how="left")
    assert same["item_hash"].equals(same["item_hash_right"], check_names=False)
    # wrong answers of an item come from all items, asked or not
    assert same["score"].to_list() == pytest.approx(same["score_right"].to_list(), rel=1e-4)


def test_examples_are_recorded_and_long_prompts_counted(
    finished: Run, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = run_tiny(
        tiny_model, finished[0] / "data", tmp_path / "out", fewshot=None, benchmarks=("gsm8k", "squad"), max_length=300
    )
    assert [entry["fewshot"] for entry in scores["benchmarks"].values()] == [5, 0]
    assert [entry["truncated_prompts"] for entry in scores["benchmarks"].values()] == [6, 0]
    assert "gsm8k: 6 of 6 prompts did not fit evaluation.max_length = 300" in caplog.text


def test_repeated_evaluation_replaces_the_old_one(finished: Run, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "left.over").write_text("x")
    first = run_tiny(tiny_model, finished[0] / "data", out, benchmarks=("triviaqa",))
    second = run_tiny(tiny_model, finished[0] / "data", out, benchmarks=("triviaqa",))
    assert sorted(path.name for path in out.iterdir()) == ["items.parquet", "scores.json"]
    assert first["benchmarks"] == second["benchmarks"]


def test_adapter_is_loaded(finished: Run, tiny_model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(1)
    tuned = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )
    tuned.save_pretrained(str(tmp_path / "adapter"))
    merge: Any = tuned.merge_and_unload
    merge().save_pretrained(tmp_path / "merged")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "merged")

    data = finished[0] / "data"
    few: dict[str, Any] = {"benchmarks": ("squad", "arc_easy")}
    run_tiny(tiny_model, data, tmp_path / "a", adapter=tmp_path / "adapter", **few)
    run_tiny(tmp_path / "merged", data, tmp_path / "m", **few)
    adapted, merged = (polars.read_parquet(tmp_path / name / "items.parquet") for name in "am")
    base = polars.read_parquet(finished[0] / "out" / "items.parquet")
    base = base.filter(polars.col("benchmark").is_in(few["benchmarks"])).sort("benchmark", descending=True)
    assert_frame_equal(adapted, merged, rel_tol=1e-4)
    assert adapted["item_hash"].equals(base["item_hash"])
    assert not adapted["response"].equals(base["response"])

    # on a GPU the adapter is merged when it is loaded
    evaluation = Evaluation(benchmarks=("squad",), batch_size=2, max_length=256)
    model = load_model(tiny_model, tmp_path / "adapter", evaluation)
    tokens = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        beside = model.model(tokens).logits
        try:
            model.prepare_for_gpu()
            assert not torch.backends.cuda.cudnn_sdp_enabled()
        finally:
            torch.backends.cuda.enable_cudnn_sdp(True)
        within = model.model(tokens).logits
    assert not [name for name, _ in model.model.named_modules() if "lora" in name]
    torch.testing.assert_close(within, beside, rtol=1e-4, atol=1e-4)
    assert not torch.equal(within, load_model(tiny_model, None, evaluation).model(tokens).logits)


def test_rows_stop_one_by_one_and_texts_are_those_of_lm_eval(tiny_model: Path) -> None:
    """A stop text that only some rows produce, whatever the generation: same texts as lm-eval's criteria give."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    evaluation = Evaluation(benchmarks=("squad",), batch_size=8, max_length=256)
    ours = load_model(tiny_model, None, evaluation)
    theirs = HFLM(pretrained=str(tiny_model), dtype="float32", device="cpu", batch_size=8, max_length=256)
    prompts = [f"Question: number {i}?\nAnswer:" for i in range(8)]

    def texts(model: HFLM, until: list[str]) -> list[str]:
        options = {"until": until, "max_gen_toks": 24, "do_sample": False}
        requests = [Instance("generate_until", {}, (prompt, dict(options)), 0) for prompt in prompts]
        return list(model.generate_until(requests, disable_tqdm=True))

    free = texts(theirs, ["no such text"])
    stops = sorted({text[5:7] for text in free})[:3]  # reached by some rows, at different places
    cut = texts(theirs, stops)
    assert cut != free
    assert texts(ours, stops) == cut


def test_stop_texts_end_only_the_rows_that_have_them(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rows = ["Question: Q\nyes", "Question: Q no\n", "Question: Q no\n x", "Question: Q</s>.."]
    encoded = [tokenizer.encode(row, add_special_tokens=False) for row in rows]
    width = max(map(len, encoded))
    batch = torch.tensor([row + tokenizer.encode(".") * (width - len(row)) for row in encoded])
    prompt = len(tokenizer.encode("Question: Q"))
    done = StopTexts(["\n", "Question:", "</s>"], tokenizer, prompt)(batch, torch.empty(0))
    assert done.tolist() == [True, True, True, True]
    # "Question:" and the first line break are in the prompt: they do not count
    longer = len(tokenizer.encode("Question: Q\n"))
    done = StopTexts(["\n", "Question:"], tokenizer, longer)(batch, torch.empty(0))
    assert done.tolist() == [False, True, True, False]


def test_death_while_writing_leaves_no_marker(tmp_path: Path) -> None:
    out = tmp_path / "evaluation"
    script = (
        "import os, pathlib, polars\n"
        "from qtuning.evaluation import run\n"
        "run.write_sealed = lambda *_: os.kill(os.getpid(), 9)\n"
        f"run.write_scores(pathlib.Path({str(out)!r}), polars.DataFrame({{'x': [1]}}), {{}})\n"
    )
    result = subprocess.run([sys.executable, "-c", script], check=False)
    assert result.returncode == -signal.SIGKILL
    assert not out.exists()
    assert [path.name for path in tmp_path.rglob("items.parquet")] == ["items.parquet"]  # it had got that far
    run.write_scores(out, polars.DataFrame({"x": [1]}), {"cell": "x"})
    assert json.loads((out / "scores.json").read_text())["cell"] == "x"


def test_bad_input_is_named_before_a_model_is_loaded(
    data_dir: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    def no_model(*_: Any) -> None:
        pytest.fail("the model was loaded first")

    monkeypatch.setattr("qtuning.evaluation.model.load_model", no_model)
    bad = data_dir / "squad" / "validation.jsonl.gz"
    with gzip.open(bad, "at") as lines:
        lines.write('{"question": "x"}\n')
    with pytest.raises(UserError, match=r"squad/validation\.jsonl\.gz: line 7: context: field required"):
        run_tiny(tiny_model, data_dir, tmp_path / "out")
    bad.unlink()
    with pytest.raises(UserError, match=r"validation\.jsonl\.gz: no such file, and squad needs it"):
        run_tiny(tiny_model, data_dir, tmp_path / "out")
    with pytest.raises(UserError, match=r"evaluation\.source = 'data-dir': no folder given"):
        run_tiny(tiny_model, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_models(data_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    few: dict[str, Any] = {"benchmarks": ("triviaqa",)}
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        run_tiny(tmp_path, data_dir, tmp_path / "out", **few)
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file"):
        run_tiny(tiny_model, data_dir, tmp_path / "out", adapter=tmp_path, **few)
    with pytest.raises(UserError, match="has no chat template"):
        run_tiny(tiny_model, data_dir, tmp_path / "out", chat_template=True, **few)


def test_chat_template_wraps_the_prompt(data_dir: Path, tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<reply>{% endif %}"
    )
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    few: dict[str, Any] = {"benchmarks": ("triviaqa",), "fewshot": 1}
    run_tiny(tmp_path / "chat", data_dir, tmp_path / "with", chat_template=True, **few)
    run_tiny(tmp_path / "chat", data_dir, tmp_path / "without", **few)
    texts = [polars.read_parquet(tmp_path / name / "items.parquet")["response"] for name in ("with", "without")]
    assert not texts[0].equals(texts[1])


def test_prompts_are_written_by_the_function_that_training_uses(tiny_model: Path, tmp_path: Path) -> None:
    """The chat text of a prompt, and its tokens, are the beginning of what a training sample of it holds."""
    from transformers import AutoTokenizer

    from qtuning.data.rows import Example, Message
    from qtuning.data.templates import render

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    model = load_model(folder, None, Evaluation(benchmarks=("squad",), chat_template=True))
    turn = [{"role": "user", "content": "Who wrote it?"}]
    prompt, response = render(
        Example(prompt=(Message("user", "Who wrote it?"),), input="", response="Ann"), "chat", model.tokenizer
    )
    assert model.apply_chat_template(turn) == prompt == "<s><user>Who wrote it?</s><assistant>"
    whole = model.tokenizer(prompt + response, add_special_tokens=False)["input_ids"]
    ((tokens, answer),) = model.encode_pairs([(prompt, "Ann")])
    assert whole[: len(tokens) + len(answer)] == tokens + answer
    assert tokens[:2] != [1, 1], "one beginning of sequence"


def test_log_likelihoods_are_taken_in_float32(tiny_model: Path) -> None:
    """Also by lm-eval's own method, whose logarithm in bfloat16 is rounded to 3 digits."""
    from lm_eval.models.huggingface import HFLM

    half = Evaluation(benchmarks=("squad",), dtype="bfloat16", max_length=256)
    model = load_model(tiny_model, None, half)
    pairs = model.encode_pairs([("Question: Who wrote it?\nAnswer:", " Ann and Bob")])
    (ours,) = model._slow_scores(pairs)
    logits = model.model(torch.tensor([pairs[0][0] + pairs[0][1][:-1]])).logits[0, len(pairs[0][0]) - 1 :]
    exact = logits.float().log_softmax(dim=-1).gather(1, torch.tensor(pairs[0][1])[:, None]).sum()
    assert ours[0] == pytest.approx(float(exact), abs=1e-3)
    theirs = HFLM(pretrained=str(tiny_model), dtype="bfloat16", device="cpu", batch_size=1, max_length=256)
    ((rounded, _),) = theirs._loglikelihood_tokens([(("", ""), *pairs[0])], disable_tqdm=True)
    assert abs(rounded - float(exact)) > 5e-3


def test_importing_is_light() -> None:
    """The workflow file and command-line help import these."""
    script = (
        "import sys, qtuning.evaluation.run, qtuning.experiment.benchmarks\n"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_likelihood_metrics_of_every_item(finished: Run) -> None:
    """What is stored follows from lm-eval's own log-likelihoods of the gold answer and of the wrong ones."""
    items = polars.read_parquet(finished[0] / "out" / "items.parquet")
    for benchmark, entry in finished[1]["benchmarks"].items():
        mine = items.filter(polars.col("benchmark") == benchmark)
        found = mine.pivot("metric", index="item", values="score").sort("item")
        if benchmark == "squad":  # of one-sentence passages with one and the same answer: there is no wrong one
            found = found.with_columns(p_gold=1.0, choice=1.0)
        assert (found["nll_answer"] >= found["nll"]).all()
        assert found["p_gold"].is_between(0, 1).all() and set(found["choice"]) <= {0.0, 1.0}
        assert set(found.filter(polars.col("p_gold") > 0.5)["choice"]) <= {1.0}
        assert entry["metrics"]["nll"] == pytest.approx(found["nll"].mean())
        if "acc" in entry["metrics"]:
            assert found["choice"].to_list() == found["acc"].to_list()


@pytest.mark.parametrize("options", [{"fewshot": 2}, {"chat_template": True}])
def test_the_gold_answer_is_scored_after_the_prompt_of_the_headline_metric(
    tiny_model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    data = write_all(tmp_path / "data")
    write_records(data, "gsm8k", "test", gsm8k(1))
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    tokenizer.save_pretrained(model)
    asked = run_tiny(model, data, tmp_path / "out", benchmarks=("gsm8k",), limit=None, **options)
    question, answer = "Question: Ann has 0 plums and gets 1,000 more. How many?\nAnswer:", gsm8k(1)[0]["answer"]
    if "fewshot" in options:
        examples = load_tasks(Evaluation(**asked["evaluation"]), data)["gsm8k"]
        examples.build_all_requests(rank=0, world_size=1)
        prompt, between = examples.instances[0].args[0], " "
        assert prompt.endswith(question) and prompt.count("Question:") == 3
    else:
        prompt, between = f"[user] {question}\n[assistant]", " "  # which the template writes before an answer
    lm = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=1, max_length=2048)
    context, tokens = lm._encode_pair(prompt, between + answer)
    ((expected, _),) = lm._loglikelihood_tokens([(("", ""), context, tokens)], disable_tqdm=True)
    metrics = asked["benchmarks"]["gsm8k"]["metrics"]
    assert metrics["nll_answer"] == pytest.approx(-expected, rel=1e-5)
    assert metrics["nll"] == pytest.approx(-expected / len(tokens), rel=1e-5)
    assert metrics["bits_per_character"] == pytest.approx(-expected / math.log(2) / len(answer), rel=1e-5)


def test_without_likelihoods_only_the_benchmarks_metrics_are_there(tiny_model: Path, tmp_path: Path) -> None:
    data = write_all(tmp_path / "data")
    asked = run_tiny(tiny_model, data, tmp_path / "out", benchmarks=("squad",), likelihoods=False)
    assert set(asked["benchmarks"]["squad"]["metrics"]) == {"f1", "exact_match"}


def test_p_gold_is_the_softmax_of_the_answers_log_likelihoods() -> None:
    found = {name: score for name, score, _ in metrics_of(["12", "3", "4"], [-1.0, -2.0, -1000.0], 0, 2)}
    assert found["p_gold"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert (found["nll_answer"], found["nll"], found["choice"]) == (1.0, 0.5, 1.0)
    assert found["bits_per_character"] == pytest.approx(1 / math.log(2) / 2)
    other = {name: (score, response) for name, score, response in metrics_of(["12", "3"], [-2.0, -1.0], 0, 2)}
    assert other["choice"] == (0.0, "3")
    assert {name for name, _, _ in metrics_of(["12"], [-2.0], 0, 2)} == {"nll", "nll_answer", "bits_per_character"}
