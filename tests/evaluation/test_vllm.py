"""The backend vLLM gives the scores of the backend hf, from one engine for all cells of a base model.

The engine is a stand-in with the part of vLLM's API that is used (stand_in/vllm), run in a process of its own as the
real one is. With QTUNING_VLLM=PYTHON (an environment with the real one) the tests marked slow run that instead:
`QTUNING_VLLM=.venv-vllm/bin/python python -m pytest tests/evaluation/test_vllm.py -m slow`.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from benchmark_files import write_all
from polars.testing import assert_frame_equal

from qtuning.errors import UserError
from qtuning.evaluation import ask
from qtuning.evaluation.ask import ask_cell, engine_settings
from qtuning.evaluation.run import evaluate_cell, ready_tasks, work_through
from qtuning.experiment.cell import (
    Cell,
    Evaluation,
    FileSource,
    HubSource,
    Lora,
    Model,
    Pruning,
    Seeds,
    Training,
    TrainSet,
)
from qtuning.experiment.finished import DIGESTS, MARKER, WEIGHTS
from qtuning.experiment.ids import ResultPaths, cell_id
from qtuning.files import read_json, write_json, write_text
from qtuning.manifest import FILES, digests_of, read_sealed, write_sealed
from qtuning.model.load import make_ready

STAND_IN = Path(__file__).parent / "stand_in"
SETTINGS: dict[str, Any] = {
    "benchmarks": ("arc_easy", "gsm8k", "squad", "math"),
    "source": "data-dir",
    "max_new_tokens": 8,
    "fewshot": 1,
    "batch_size": 4,
    "limit": 3,
    "max_length": 1024,
}
HF, VLLM = Evaluation(**SETTINGS), Evaluation(**SETTINGS | {"backend": "vllm"})


def a_cell(model: Path, seed: int, **training: Any) -> Cell:
    return Cell(
        model=Model(name="tiny", source=HubSource(id=str(model))),
        train_set=TrainSet(name="none", source=FileSource(kind="path", file="none.jsonl")),
        pruning=Pruning(sample_pruner="full", token_pruner="none", sample_ratio=1, token_ratio=1),
        training=Training(**training),
        seeds=Seeds(data=seed, pruner=seed, init=seed),
    )


class World:
    """Trained cells of a tiny model, none evaluated: the base model, two adapters of other ranks, and full weights."""

    def __init__(self, root: Path, model: Path, **changes: Any) -> None:
        self.hf, self.vllm = (each.model_copy(update=changes) for each in (HF, VLLM))
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.paths, self.data = ResultPaths(root / "results"), write_all(root / "data")
        self.base = Cell(model=Model(name="tiny", source=HubSource(id=str(model))))
        self.adapted = [a_cell(model, seed, lora=Lora(r=rank)) for seed, rank in ((1, 2), (2, 9))]
        self.full = a_cell(model, 3, tuning="full")
        make_ready(self.base.model, self.paths.model(self.base))
        for cell in (*self.adapted, self.full):
            folder = self.paths.cell(cell)
            torch.manual_seed(cell.seeds.data)
            tuned: Any = AutoModelForCausalLM.from_pretrained(model)
            if cell.training.tuning == "lora":
                config = LoraConfig(
                    r=cell.training.lora.r, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
                )
                tuned = get_peft_model(tuned, config)
            else:
                for weight in tuned.parameters():
                    weight.data += 0.05 * torch.randn_like(weight)
            tuned.save_pretrained(folder / WEIGHTS)
            AutoTokenizer.from_pretrained(model).save_pretrained(folder / WEIGHTS)
            files = digests_of(folder, (path for path in (folder / WEIGHTS).rglob("*") if path.is_file()))
            write_sealed(folder / MARKER, {"cell": cell_id(cell), "status": "done", FILES: files})
            tensors = ((name.removeprefix(f"{WEIGHTS}/"), digest) for name, digest in files.items())
            lines = [f"{digest}  {name}\n" for name, digest in tensors if name.endswith(".safetensors")]
            write_text(folder / DIGESTS, "".join(lines))

    def ask(self, cell: Cell, python: Path = Path(sys.executable), **options: Any) -> None:
        ask_cell(cell, self.vllm, self.paths, data_dir=self.data, python=python, **options)

    def items(self, cell: Cell, evaluation: Evaluation) -> polars.DataFrame:
        evaluate_cell(cell, evaluation, self.paths, data_dir=self.data)
        return polars.read_parquet(self.paths.evaluation(cell, evaluation) / "items.parquet")


@pytest.fixture(scope="module")
def stand_in() -> Iterator[None]:
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{STAND_IN}{os.pathsep}{before}"
    yield
    os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> World:
    return World(tmp_path_factory.mktemp("vllm"), tiny_model)


def compare(world: World, cells: list[Cell]) -> None:
    """Answers and marks of vLLM are those of transformers."""
    for cell in cells:
        ours, theirs = world.items(cell, world.vllm), world.items(cell, world.hf)
        assert_frame_equal(ours, theirs, abs_tol=2e-3, rel_tol=2e-3)
        assert ours["response"].equals(theirs["response"])
    responses = [tuple(world.items(cell, world.vllm)["response"]) for cell in cells]
    assert len(set(responses)) == len(cells), "each cell has its own weights"


@pytest.fixture(scope="module")
def asked(world: World, stand_in: None) -> World:
    """The base model's job has run, with the adapters beside it."""
    beside = [world.base, *world.adapted, world.full]
    world.ask(world.base, beside=beside)
    return world


def no_engine(*_: Any) -> None:
    pytest.fail("an engine was started")


def test_one_engine_answers_for_all_adapters_as_transformers_does(
    asked: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "Engine", no_engine)
    assert asked.paths.asked(asked.base, VLLM).is_file()
    for cell in asked.adapted:
        assert not asked.paths.asked(cell, VLLM).exists(), "an output appears in its own job only"
        asked.ask(cell, hold_gpu=lambda: pytest.fail("a GPU was taken"))
    compare(asked, [asked.base, *asked.adapted])
    for cell in (asked.base, *asked.adapted):  # as another workflow does, which waited for this one
        assert not asked.paths.replies(cell, VLLM).exists(), "what is marked goes"
        asked.ask(cell)
        asked.items(cell, VLLM)
        assert asked.paths.asked(cell, VLLM).is_file()
    scores = read_json(asked.paths.evaluation(asked.base, VLLM) / "scores.json")
    backend = scores["backend"]
    assert (backend["name"], backend["device"], backend["batch_size"]) == ("vllm", "cpu", 256)
    assert backend["vllm"] == "0.32.0+stand-in" and backend["torch"] == torch.__version__
    assert scores["benchmarks"]["math"]["items"] == 3
    with pytest.raises(BaseException, match="an engine was started"):  # weights of their own, so an engine of their own
        asked.ask(asked.full)


@pytest.mark.slow
def test_weights_of_full_fine_tuning_have_an_engine_of_their_own(asked: World) -> None:
    asked.ask(asked.full, beside=[asked.base, *asked.adapted])
    compare(asked, [asked.full])


def test_a_vllm_that_does_not_know_gpus_by_uuid_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vllm/lora").mkdir(parents=True)
    (tmp_path / "vllm/__init__.py").write_text("__version__ = '0.10.2'\nLLM = SamplingParams = None\n")
    (tmp_path / "vllm/lora/__init__.py").touch()
    (tmp_path / "vllm/lora/request.py").write_text("LoRARequest = None\n")
    (tmp_path / "questions.json").write_text("{}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match="has ended with status 1; what it said is above"):
        ask.Engine(Path(sys.executable), {"engine": {}, "questions": str(tmp_path / "questions.json")})
    assert "error: vLLM 0.10.2: must be 0.32 or newer" in capfd.readouterr().err


@pytest.mark.parametrize(("free", "share"), [("0.8", 0.8), ("0.5", 0.5), ("1", 0.85), ("0", 0.85)])
def test_an_engine_wants_no_more_memory_than_its_lease_has_seen(
    free: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM refuses to start where less than that is free."""
    monkeypatch.setenv("QTUNING_GPU_FREE", free)
    assert ask.engine_settings(tmp_path, VLLM, 128, [])["gpu_memory_utilization"] == share


def test_replies_of_other_weights_or_to_other_questions_are_not_taken(
    asked: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = asked.adapted[0]
    if not (file := asked.paths.replies(cell, VLLM)).is_file():
        shutil.rmtree(asked.paths.evaluation(cell, VLLM))  # marked by another test
        asked.ask(cell)
    assert ask._answered(cell, VLLM, asked.paths)
    digests = asked.paths.cell(cell) / DIGESTS
    told = digests.read_text()
    digests.write_text("trained again")
    assert not ask._answered(cell, VLLM, asked.paths)
    with pytest.raises(UserError, match=r"replies\.json: replies of other weights of tiny-"):
        asked.items(cell, VLLM)
    digests.write_text(told)
    write_sealed(file, read_sealed(file, "again") | {"questions": "others"})
    with pytest.raises(UserError, match="answered other questions than evaluation-"):
        asked.items(cell, VLLM)


def test_a_cell_that_another_job_asks_is_left_to_it(world: World, stand_in: None) -> None:
    from qtuning.experiment.ids import evaluation_id
    from qtuning.locks import exclusive_if_free

    lock = world.paths.lock(f"{cell_id(world.base)}-{evaluation_id(VLLM)}")
    with exclusive_if_free(lock) as mine, exclusive_if_free(lock) as others:
        assert mine and not others
    assert not ask._wanted(a_cell(Path("x"), 9), VLLM, world.paths), "not trained"


def test_asking_marks_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MATH's checker is slow: it must not run while a GPU waits."""
    from qtuning.evaluation.replies import AskedModel
    from qtuning.model.load import model_path

    def slow(*_: Any, **__: Any) -> None:
        pytest.fail("an answer was checked")

    monkeypatch.setattr("math_verify.verify", slow)
    base = model_path(world.paths.model(world.base))
    model = AskedModel(base, VLLM)
    work_through(model, ready_tasks(VLLM, world.data), VLLM)
    assert len(model.questions.generations) == 3 * 3  # three benchmarks generate, three items each
    assert all(len(tokens) <= model.questions.room - 1 for _, tokens in model.questions.pairs)
    again = AskedModel(base, VLLM)
    work_through(again, ready_tasks(VLLM, world.data), VLLM)
    assert again.questions.digest == model.questions.digest


def test_prompts_become_the_same_tokens_for_both_backends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM is sent are the tokens that transformers reads, beginning of sequence and truncation among them."""
    from qtuning.evaluation.model import load_model
    from qtuning.evaluation.replies import AskedModel
    from qtuning.model.load import model_path

    short = VLLM.model_copy(update={"benchmarks": ("gsm8k", "squad"), "max_length": 130})
    base = model_path(world.paths.model(world.base))
    model, theirs = AskedModel(base, short), load_model(base, None, short)
    seen: list[list[int]] = []

    def generate(context: torch.Tensor, attention: torch.Tensor, *_: Any) -> Any:
        rows = zip(context.tolist(), attention.tolist(), strict=True)
        seen.extend([token for token, used in zip(row, mask, strict=True) if used] for row, mask in rows)
        return context

    monkeypatch.setattr(theirs, "_continue", generate)
    for each in (theirs, model):  # new tasks, since lm-eval draws examples anew with every prompt
        work_through(each, ready_tasks(short, world.data), short)
    assert sorted(tokens for _, tokens in model.questions.generations) == sorted(seen)
    assert max(map(len, seen)) == 130 - 8, "what is too long loses its beginning"


def test_an_engine_that_is_missing_or_ends_is_one_line(
    world: World, stand_in: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    shutil.rmtree(world.paths.evaluation(world.full, VLLM), ignore_errors=True)  # marked by another test
    with pytest.raises(UserError, match=r"python has no vLLM; `make vllm-env`") as error:
        world.ask(world.full, python=python)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="vLLM's process has ended with status 1"):
        ask.Engine(Path(sys.executable), {"engine": {"model": str(tmp_path)}, "questions": str(tmp_path / "none")})


def test_settings_of_an_engine(tiny_model: Path, tmp_path: Path) -> None:
    def settings(*ranks: int, module: str = "q_proj") -> dict[str, Any]:
        for rank in ranks:
            write_json(tmp_path / str(rank) / "adapter_config.json", {"r": rank, "target_modules": [module]})
        return engine_settings(tiny_model, VLLM, 600, [tmp_path / str(rank) for rank in ranks])

    assert "enable_lora" not in settings() and settings()["enable_prefix_caching"]
    assert settings()["load_format"] == "safetensors"
    assert settings(2)["max_lora_rank"] == 8
    both = settings(8, 9)
    assert (both["max_lora_rank"], both["lora_target_modules"]) == (16, ["q_proj"])
    with pytest.raises(UserError, match="600: rank 600 on q_proj: vLLM takes ranks up to 512, not on lm_head"):
        settings(600)
    with pytest.raises(UserError, match="2: rank 2 on lm_head: vLLM takes"):
        settings(2, module="lm_head")


def test_scores_of_vllm_have_a_name_of_their_own() -> None:
    from qtuning.experiment.ids import evaluation_id

    assert evaluation_id(VLLM) != evaluation_id(HF)
    assert evaluation_id(VLLM) == evaluation_id(Evaluation(**SETTINGS | {"backend": "vllm", "batch_size": 99}))
    assert json.loads(VLLM.model_dump_json())["batch_size"] == 256


@pytest.mark.slow
@pytest.mark.skipif("QTUNING_VLLM" not in os.environ, reason="QTUNING_VLLM: the Python of an environment with vLLM")
def test_the_real_vllm(tmp_path: Path) -> None:
    """On the shipped model: on a CPU, vLLM refuses the head size of the tiny one."""
    mini = Path(__file__).parents[2] / "qtuning" / "assets" / "mini"
    world = World(tmp_path, mini, max_length=256, fewshot=0)
    cells = [world.base, *world.adapted]
    world.ask(world.base, python=Path(os.environ["QTUNING_VLLM"]), beside=cells)
    for cell in world.adapted:
        world.ask(cell, python=Path("no such file"))
    compare(world, cells)
