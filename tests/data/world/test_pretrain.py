"""Pretraining in small: the same weights twice, a falling loss, and a clear word when the world is missing."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from qtuning.data.world.pretrain import Recipe, pretrain, train_tokenizer
from qtuning.errors import UserError
from qtuning.files import file_digest

SMALL = Recipe(vocabulary=400, hidden=32, layers=1, heads=2, intermediate=64, context=64, batch=4, max_updates=60)


@pytest.fixture(scope="module")
def small_world(world_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first documents of the world."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(world_dir / "manifest.json", folder)
    for name, count in (("pretrain", 600), ("sft", 50)):
        (folder / name).mkdir()
        with gzip.open(world_dir / name / "train.jsonl.gz", "rt") as full:
            lines = [next(full) for _ in range(count)]
        with gzip.open(folder / name / "train.jsonl.gz", "wt") as part:
            part.writelines(lines)
    return folder


def test_same_weights_twice_and_falling_loss(small_world: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretrain(small_world, tmp_path / name, threads=1, recipe=SMALL)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert file_digest(tmp_path / "a" / file) == file_digest(tmp_path / "b" / file), file
    losses = [json.loads(line)["loss"] for line in (tmp_path / "a" / "training_log.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.5


def test_another_seed_gives_other_weights(small_world: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        recipe = Recipe(**{**SMALL.__dict__, "seed": seed, "max_updates": 1})
        pretrain(small_world, tmp_path / str(seed), threads=1, recipe=recipe)
    assert file_digest(tmp_path / "1" / "model.safetensors") != file_digest(tmp_path / "2" / "model.safetensors")


def test_missing_world_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="generate the mini world"):
        pretrain(tmp_path / "nowhere", tmp_path / "out", threads=1, recipe=SMALL)
    assert not (tmp_path / "out").exists()


def test_tokenizer_merges_do_not_depend_on_chance() -> None:
    texts = ["the velk lives in the bay", "12 + 7 = <<12+7=19>>19", "the bay is wide"] * 3
    first, second = (train_tokenizer(texts, 300).backend_tokenizer.to_str() for _ in range(2))
    assert first == second
