"""Pretraining in small: the same weights twice, a falling loss, and a clear word when the world is missing."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from mini_world.muon import Muon, orthogonal
from mini_world.pretrain import SHIPPED, Recipe, pretrain, train_tokenizer
from qtuning.errors import UserError
from qtuning.files import file_digest

SMALL = Recipe(vocabulary=400, hidden=32, layers=1, heads=2, intermediate=64, context=64, batch=4, updates=60)


@pytest.fixture(scope="module")
def small_world(world_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first documents of the world."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(world_dir / "manifest.json", folder)
    for name, count in (("pretrain/train", 600), ("sft/train_0", 50)):
        path = folder / f"{name}.jsonl.gz"
        path.parent.mkdir()
        with gzip.open(world_dir / f"{name}.jsonl.gz", "rt") as full:
            lines = [next(full) for _ in range(count)]
        with gzip.open(path, "wt") as part:
            part.writelines(lines)
    return folder


def test_same_weights_twice_and_falling_loss(small_world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretrain(small_world, tmp_path / name, threads=1, recipe=SMALL, new_tokenizer=True)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert file_digest(tmp_path / "a" / file) == file_digest(tmp_path / "b" / file), file
    losses = [json.loads(line)["loss"] for line in (tmp_path / "a" / "training_log.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.5


def test_another_seed_gives_other_weights(small_world: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        recipe = Recipe(**{**SMALL.__dict__, "seed": seed, "updates": 1})
        pretrain(small_world, tmp_path / str(seed), threads=1, recipe=recipe, new_tokenizer=True)
    assert file_digest(tmp_path / "1" / "model.safetensors") != file_digest(tmp_path / "2" / "model.safetensors")


def test_missing_world_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="generate the mini world"):
        pretrain(tmp_path / "nowhere", tmp_path / "out", threads=1, recipe=SMALL, new_tokenizer=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
def test_muon_makes_updates_orthogonal(shape: tuple[int, int]) -> None:
    """Against the singular value decomposition: the same singular vectors, values near 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ v.T
    assert ((found.diagonal() > 0.5) & (found.diagonal() < 1.5)).all()
    assert (found - found.diagonal().diag()).abs().max() < 1e-3


def test_muon_is_the_one_of_torch_in_another_precision() -> None:
    start = torch.randn(24, 60, generator=torch.Generator().manual_seed(1))
    gradients = torch.randn(5, 24, 60, generator=torch.Generator().manual_seed(2))
    ends = []
    for optimizer in (Muon, torch.optim.Muon):
        parameter = torch.nn.Parameter(start.clone())
        steps = optimizer([parameter], lr=0.1, weight_decay=0.01)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            steps.step()
        ends.append(parameter.detach())
    assert (ends[0] - start).norm() > 1
    assert torch.allclose(ends[0], ends[1], atol=0.02)


def test_tokenizer_merges_do_not_depend_on_chance() -> None:
    texts = ["the velk lives in the bay", "12 + 7 = <<12+7=19>>19", "the bay is wide"] * 3
    first, second = (train_tokenizer(texts, 300).backend_tokenizer.to_str() for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_the_shipped_run_begins_like_this_code(world_dir: Path, tmp_path: Path) -> None:
    """The first logged losses of the shipped model come out again: same corpus, tokenizer, recipe and code.

    The schedule of the first 100 updates (warm-up) depends on the length of the whole run, which `warmup` makes up for.
    """
    shipped = [json.loads(line) for line in (SHIPPED / "training_log.jsonl").read_text().splitlines()]
    recipe = Recipe(updates=100, warmup=Recipe().warmup * Recipe().updates / 100, decay=0)
    pretrain(world_dir, tmp_path / "begun", threads=1, recipe=recipe)
    again = [json.loads(line) for line in (tmp_path / "begun" / "training_log.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in again] == pytest.approx([entry["loss"] for entry in shipped[:5]], abs=0.05)
