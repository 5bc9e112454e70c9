"""What `qtuning plane MODEL DATA` shall score: which model and which SFT file the user means. Imports no torch."""

import re
from pathlib import Path
from typing import Literal, get_args

from qtuning.data.containers import read_file
from qtuning.data.forms import CHAT, PAIRS
from qtuning.data.sources import locate
from qtuning.errors import UserError
from qtuning.experiment.cell import FileSource, HubSource, Model, ShippedModelSource, Template, TrainSet
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.yaml_files import nearest


def find_model(name: str, template: str | None, named: ConfigFolder) -> Model:
    """The model that `name` means: a file of configs/models, the shipped one, a folder, or one on the hub.

    named: the folder of configurations. Raises UserError for an unknown name or template.
    """
    if template is not None and template not in get_args(Template):
        raise UserError(f"--template = {template!r}: unknown{nearest(template, get_args(Template))}")
    known = named.names("models")
    folder = Path(name).expanduser()
    if name in known:
        model = named.model(name)
    elif name == "mini":
        model = Model(name="mini", source=ShippedModelSource(kind="shipped", asset="mini"), template="plain")
    elif folder.is_dir():
        model = Model(name=_slug(folder.resolve().name), source=HubSource(id=str(folder.resolve())))
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        model = Model(name=_slug(name.rpartition("/")[2]), source=HubSource(id=name))
    else:
        hint = nearest(name, dict.fromkeys([*known, "mini"]))
        raise UserError(f"model {name!r}: no folder, no owner/name of the hub, and not in {named.configs}/models{hint}")
    return model if template is None else model.model_copy(update={"template": template})


def find_train_set(name: str, named: ConfigFolder) -> TrainSet:
    """The train set that `name` means: a file of configs/train_sets, the mini world's, or an SFT file.

    Of several draws it is the first. The form of an SFT file follows from its first row. Rows of it that cannot be used
    are counted, not refused. Raises UserError where there is no such file, or its first row is of no known form.
    """
    known, path = named.names("train_sets"), Path(name).expanduser()
    if name in known:
        return named.train_set(name).drawn(0)
    if name == "mini":
        return TrainSet(name="mini", source=FileSource(kind="mini-world", file="sft/train_0.jsonl.gz"))
    if not path.exists():
        hint = nearest(name, dict.fromkeys([*known, "mini"]))
        raise UserError(f"data {name!r}: no such file, and not in {named.configs}/train_sets{hint}")
    source = FileSource(kind="path", file=str(path.resolve()))
    return TrainSet(name=_slug(path.name.split(".")[0]), source=source, format=_form(path), bad_rows=1.0)


def _form(path: Path) -> Literal["alpaca", "chat", "sharegpt", "prompt-completion"]:
    rows = read_file(locate(FileSource(kind="path", file=str(path)), data_dir=None)[0])
    first = next((row for row in rows if isinstance(row.value, dict)), None)
    if first is None:
        raise UserError(f"{path}: has no row that is an object with columns")
    assert isinstance(first.value, dict)
    if "messages" in first.value:
        return "chat"
    if set(CHAT) & set(first.value):
        return "sharegpt"
    if {"instruction", "output"} <= set(first.value):
        return "alpaca"
    if any(set(pair) <= set(first.value) for pair in PAIRS):
        return "prompt-completion"
    raise UserError(
        f"{path}:{first.line}: has columns {', '.join(map(str, first.value))}; expected instruction and output (input "
        "is optional), messages, conversations, or prompt and completion; name other columns in a file of "
        "configs/train_sets (`columns`)"
    )


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._")[:64] or "unnamed"
