"""What a model can take: checked before anything is trained, one line for whatever does not fit.

A token id beyond the embeddings ends a GPU's process with an assertion that names nothing; positions beyond those that
a model was made for give scores that mean nothing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.data.chat import TemplateRefusal, check_has_template
from qtuning.data.rows import Example, Message
from qtuning.data.templates import render, turn_of
from qtuning.data.tokenise import Tokenised, load_tokenizer, tokenise
from qtuning.errors import UserError, one_line
from qtuning.experiment.cell import Template
from qtuning.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Wanted:
    """What experiments want of a base model.

    cutoff: longest sample, max_length: longest sequence of an evaluation, in tokens; None: none is known. templates:
    of the models that are trained. chat: whether an evaluation writes prompts by the chat template.
    """

    cutoff: int | None = None
    max_length: int | None = None
    templates: Collection[Template] = ()
    chat: bool = False


def check_limits(path: Path, wanted: Wanted) -> None:
    """UserError if the model in the folder `path` cannot do what is wanted of it."""
    positions = positions_of(path)
    for key, tokens in (("training.cutoff", wanted.cutoff), ("evaluation.max_length", wanted.max_length)):
        if positions is not None and tokens is not None and tokens > positions:
            raise UserError(f"{key} = {tokens}: the model in {path} has {positions} positions; lower it")
    tokenizer = load_tokenizer(path)
    if wanted.chat and not tokenizer.chat_template:
        raise UserError(
            f"evaluation.chat_template = true: the tokenizer in {path} has no chat template; set it to false"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"the tokenizer in {path} has no token to pad with, nor an unknown or end token in its place; set "
            "pad_token in its tokenizer_config.json"
        )
    ids = [tokenizer.pad_token_id]
    for template in {*wanted.templates, *(["chat"] if wanted.chat else [])}:
        ids += _ids_of(template, tokenizer)  # type: ignore[arg-type]
    check_ids(path, ids)
    _check_named_ids(path)


def positions_of(path: Path) -> int | None:
    """How long a sequence the model in the folder `path` can take, in tokens; None: its family has no such limit."""
    positions: int | None = getattr(_text_config(path), "max_position_embeddings", None)
    return positions


def check_ids(path: Path, ids: Iterable[int]) -> None:
    """UserError if the model in the folder `path` has no embedding of one of these tokens."""
    rows, highest = getattr(_text_config(path), "vocab_size", None), max(ids, default=0)
    if rows is not None and highest >= rows:
        raise UserError(
            f"the tokenizer in {path} gives token ids up to {highest}, but the model has {rows} embeddings; load the "
            "model, call resize_token_embeddings(len(tokenizer)), save both and name that folder"
        )


def _check_named_ids(path: Path) -> None:
    """UserError for a special token that the model's own files name for generation, and that has no embedding."""
    rows = getattr(_text_config(path), "vocab_size", None)
    if rows is None:
        return
    for file in (path / "generation_config.json", path / "config.json"):
        named = read_json(file) if file.is_file() else {}
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            ids = value if isinstance(value := named.get(key), list) else [value]
            if wrong := [each for each in ids if isinstance(each, int) and each >= rows]:
                raise UserError(f"{file}: {key} = {wrong[0]}: the model has {rows} embeddings; name the tokenizer's")


def _ids_of(template: Template, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Those that the template writes beside the texts of a row, and what ends a turn."""
    if template == "chat":
        check_has_template(tokenizer)
    turn = turn_of(tokenizer, template)
    example = Example((Message("user", "a"),), "b")
    try:
        texts = render(example, template, tokenizer)
    except TemplateRefusal as refusal:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses an answer: {refusal}; mend the template, or set "
            "template: alpaca or plain in the model's YAML"
        ) from None
    (made,) = tokenise([texts], tokenizer, template, 10**6)
    return [turn.id, *(made.tokens if isinstance(made, Tokenised) else ())]


def _text_config(path: Path) -> Any:
    """The configuration of the language model in `path`, in the names that families share; None: a tokenizer alone."""
    from transformers import AutoConfig

    if not (path / "config.json").is_file():
        return None
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True).get_text_config()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: its config.json cannot be used: {one_line(error)}") from None
