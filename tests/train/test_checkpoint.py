"""Resume state: bit for bit, checked when read, and never without a way back."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from qtuning.errors import UserError
from qtuning.train import checkpoint

CELL: dict[str, Any] = {"cell": '{"cell":1}', "inputs": {"data": "0a", "model": "1b"}, "journal": {}}


def small_model(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    model[0].bias.requires_grad_(False)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        model(torch.randn(4, 5, generator=rng)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def adamw(model: nn.Module, **settings: Any) -> torch.optim.AdamW:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=0.01, weight_decay=0.1, **settings)


@pytest.mark.parametrize("fused", [True, False])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, fused: bool) -> None:
    straight = small_model(0)
    optimizer = adamw(straight, fused=fused)
    train(straight, optimizer, range(9))

    first = small_model(0)
    optimizer = adamw(first, fused=fused)
    train(first, optimizer, range(5))
    checkpoint.save(tmp_path, 5, checkpoint.training_tensors(first, optimizer), CELL | {"cost": [{"updates": 5}]})

    again = small_model(0)
    optimizer = adamw(again, fused=fused)
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["update"] == 5 and loaded[1]["cost"] == [{"updates": 5}]
    checkpoint.restore(loaded[0], again, optimizer)
    train(again, optimizer, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


def test_restored_bits_are_the_saved_bits(tmp_path: Path) -> None:
    model = small_model(0)
    optimizer = adamw(model)
    train(model, optimizer, range(3))
    with torch.no_grad():
        model.get_parameter("2.weight")[0, :3] = torch.tensor([float("inf"), -0.0, 1e-42])
    tensors = checkpoint.training_tensors(model, optimizer)
    assert set(tensors) == {
        f"{kind}.{name}"
        for name in ("0.weight", "2.weight", "2.bias")
        for kind in ("model", "optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    }, "frozen parameters are not part of the state"
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    checkpoint.save(tmp_path, 3, tensors, CELL)
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None
    other = small_model(1)
    other_optimizer = adamw(other)
    checkpoint.restore(loaded[0], other, other_optimizer)
    after = checkpoint.training_tensors(other, other_optimizer)
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and tensor.shape == after[name].shape
        assert tensor.detach().numpy().tobytes() == after[name].detach().numpy().tobytes(), name


def test_low_precision_and_views(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(12).reshape(3, 4).t().bfloat16(), "b": torch.tensor(3.0)}
    checkpoint.save(tmp_path, 1, tensors, CELL)
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None
    assert all(
        torch.equal(loaded[0][name], tensor) and loaded[0][name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )


def test_a_parameter_that_was_never_updated(tmp_path: Path) -> None:
    """AdamW keeps nothing for it; neither does the checkpoint."""
    model = small_model(0)
    optimizer = adamw(model)
    last = cast(nn.Linear, model[2])
    last(torch.ones(1, 7)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    tensors = copy.deepcopy(checkpoint.training_tensors(model, optimizer))
    other = small_model(0)
    other_optimizer = adamw(other)
    checkpoint.restore(tensors, other, other_optimizer)
    assert other[0].weight not in other_optimizer.state
    train(model, optimizer, range(2))
    train(other, other_optimizer, range(2))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def write(folder: Path, update: int, **state: Any) -> Path:
    checkpoint.save(folder, update, {"x": torch.full((64,), float(update))}, CELL | {"cost": [{"n": 5}]} | state)
    return folder / f"checkpoint-{update:07d}"


def test_two_are_kept(tmp_path: Path) -> None:
    for update in (3, 9, 10, 100):
        write(tmp_path, update)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-0000010", "checkpoint-0000100"]
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["update"] == 100
    checkpoint.clear(tmp_path)
    assert not tmp_path.exists() and checkpoint.latest(tmp_path, CELL) is None
    checkpoint.clear(tmp_path)


def flip(path: Path, place: float, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "bit in the header": lambda p: flip(p / "tensors.safetensors", 0.1),
    "bit in a tensor": lambda p: flip(p / "tensors.safetensors", 0.99),
    "truncated tensors": lambda p: cut(p / "tensors.safetensors"),
    "empty tensors": lambda p: (p / "tensors.safetensors").write_bytes(b""),
    "missing tensors": lambda p: (p / "tensors.safetensors").unlink(),
    "truncated state": lambda p: cut(p / "state.json"),
    "empty state": lambda p: (p / "state.json").write_bytes(b""),
    "missing state": lambda p: (p / "state.json").unlink(),
    "state is another value": lambda p: (p / "state.json").write_text("[1]"),
    "state without entries": lambda p: (p / "state.json").write_text("{}"),
    "state is not text": lambda p: flip(p / "state.json", 0.5, bit=7),
    "empty folder": empty,
    "a file of that name": lambda p: p.rename(p.parent / ".away") and p.write_text(""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_newest_falls_back(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 4)
    newest = write(tmp_path, 8)
    DAMAGE[name](newest)
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["update"] == 4
    assert torch.equal(loaded[0]["x"], torch.full((64,), 4.0))
    said = capsys.readouterr().err
    assert str(newest) in said and "damaged" in said and len(said.splitlines()) == 1

    shutil.rmtree(tmp_path / "checkpoint-0000004")
    assert checkpoint.latest(tmp_path, CELL) is None, "nothing intact: start afresh"


@pytest.mark.parametrize("file", ["state.json", "tensors.safetensors"])
def test_no_flipped_bit_goes_unnoticed(tmp_path: Path, file: str) -> None:
    """A digit of `update` is one bit away from another digit."""
    write(tmp_path / "good", 8)
    for place in range(0, 200, 6 if file == "state.json" else 20):
        for bit in (0, 3):
            folder = tmp_path / f"{place}-{bit}"
            write(folder, 4)
            path = write(folder, 8) / file
            flip(path, place / 200, bit)
            loaded = checkpoint.latest(folder, CELL)
            assert loaded is not None
            if loaded[1]["update"] == 8:  # only what JSON does not look at may pass: spaces between values
                intact = checkpoint.latest(tmp_path / "good", CELL)
                assert (
                    intact is not None
                    and loaded[1] == intact[1]
                    and torch.equal(loaded[0]["x"], torch.full((64,), 8.0))
                )


def test_damage_does_not_cost_the_last_intact_one(tmp_path: Path) -> None:
    """After a fall-back, the damaged checkpoint does not count as one of the two."""
    write(tmp_path, 4)
    flip(write(tmp_path, 8) / "tensors.safetensors", 0.99)
    assert checkpoint.latest(tmp_path, CELL) is not None
    write(tmp_path, 5)
    flip(write(tmp_path, 6) / "tensors.safetensors", 0.99)
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["update"] == 5


def test_a_half_written_one_is_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Killed before the rename: a hidden folder is left, which is no checkpoint and hides none."""
    good = write(tmp_path, 4)
    shutil.copytree(good, tmp_path / ".checkpoint-0000008.0a1b2c3d.tmp")
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["update"] == 4
    assert capsys.readouterr().err == ""
    write(tmp_path, 8)
    assert (tmp_path / "checkpoint-0000008").is_dir()


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 4)
    with pytest.raises(UserError, match=r"another configuration; delete .* to start afresh"):
        checkpoint.latest(tmp_path, CELL | {"cell": '{"cell":2}'})
    assert checkpoint.latest(tmp_path, CELL) is not None, "and left alone"


def test_other_data_or_another_base_model_start_afresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    written = write(state, 4)
    (state / "metrics.jsonl").write_text("{}")
    assert checkpoint.latest(state, CELL | {"inputs": {"data": "ff", "model": "1b"}}) is None
    assert not state.exists() and f"{written}: made from other data" in capsys.readouterr().err


def test_the_same_update_again(tmp_path: Path) -> None:
    write(tmp_path, 4)
    write(tmp_path, 4, cost=[{"n": 6}])
    loaded = checkpoint.latest(tmp_path, CELL)
    assert loaded is not None and loaded[1]["cost"] == [{"n": 6}]
