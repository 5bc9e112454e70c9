"""Names -> pruners: built-in, the entry point of an installed package, or `module:attribute` of the user's own.

Importable without torch, and built-ins resolve without it: configuration stays fast.
"""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

from pydantic import ValidationError, create_model

from qtuning.errors import UserError
from qtuning.explain import explain, nearest
from qtuning.pruners.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, Kind, Need, NoOptions, PrunerInfo, Scope

if TYPE_CHECKING:
    from torch import Tensor

    from qtuning.pruners.base import Candidates, SampleSelection

Pruner = TypeVar("Pruner", bound=Callable[..., Any])

BUILT_IN: dict[Kind, dict[str, PrunerInfo]] = {"sample": SAMPLE_PRUNERS, "token": TOKEN_PRUNERS}
PARAMETERS: dict[Kind, tuple[str, ...]] = {
    "sample": ("candidates", "budget", "rng"),
    "token": ("candidates", "selection", "budget", "rng"),
}
DECLARED = "__qtuning_pruner__"


def pruner(*, scope: Scope = "batch", needs: Collection[Need] = frozenset({"scores"})) -> Callable[[Pruner], Pruner]:
    """Say when a pruner of one's own runs and what it needs to know; returns the function or class unchanged.

    scope: `batch` (keeps a part of every batch) or, for sample pruners, `epoch` (draws a smaller data set before each
    epoch). needs: any of scores, sequence-entropy, attention, reference, losses, instructions (base.Candidates).
    Without this decorator: `batch`, and scores.
    """
    if scope not in ("batch", "epoch"):
        raise UserError(f"@pruner: scope = {scope!r}: must be batch or epoch")
    if unknown := sorted(set(needs) - set(get_args(Need))):
        raise UserError(f"@pruner: needs: unknown {', '.join(unknown)}{nearest(unknown[0], get_args(Need))}")

    def mark(chosen: Pruner) -> Pruner:
        setattr(chosen, DECLARED, (scope, frozenset(needs)))
        return chosen

    return mark


def resolve(name: str, kind: Kind) -> PrunerInfo:
    """What is known of the pruner `name` of that kind. UserError, one line, if there is none or it is unusable."""
    if name in BUILT_IN[kind]:
        return BUILT_IN[kind][name]
    return _plugin(name, kind)


@cache
def _plugin(name: str, kind: Kind) -> PrunerInfo:
    registered = {entry.name: entry.value for entry in entry_points(group=f"qtuning.{kind}_pruners")}
    place = registered.get(name, name)
    if ":" not in place:
        valid = [*BUILT_IN[kind], *registered]
        raise UserError(
            f"{name!r}: unknown {kind} pruner{nearest(name, valid)}; one of your own is named module:attribute"
        )
    found = _load(place)
    if not callable(found):
        raise UserError(f"pruner {place}: is no function or class but a {type(found).__name__}")
    kinds = [known for known in PARAMETERS if _parameters(found, place)[: len(PARAMETERS[known])] == PARAMETERS[known]]
    if kind not in kinds:
        taken = ", ".join(_parameters(found, place))
        raise UserError(f"pruner {place}: takes ({taken}), but a {kind} pruner takes ({', '.join(PARAMETERS[kind])})")
    default: tuple[Scope, frozenset[Need]] = ("batch", frozenset({"scores"}))
    scope, needs = getattr(found, DECLARED, default)
    if kind == "token" and scope != "batch":
        raise UserError(f"pruner {place}: a token pruner works on batches; leave scope out")
    return PrunerInfo(
        name=name,
        function=place,
        scope=scope,
        needs=needs,
        options=_options_of(found, place),
        version=_digest(found, place),
        label=place.split(":")[1],
    )


def bind(info: PrunerInfo, options: Mapping[str, object], kind: Kind) -> Callable[..., Any]:
    """The pruner with its options: called with the arguments that PARAMETERS lists for its kind.

    A function gets the options as keyword arguments, a class at construction. UserError for wrong options.
    """
    try:
        model = info.options.model_validate(options)
    except ValidationError as error:
        raise UserError("\n".join(explain(error, f"{kind} pruner {info.name}: options", info.options))) from None
    values = {name: getattr(model, name) for name in info.options.model_fields}
    found = _load(info.function)
    if inspect.isclass(found):
        return cast(Callable[..., Any], found(**values))
    return partial(found, **values)


def check_samples(info: PrunerInfo, selection: "SampleSelection", candidates: "Candidates") -> None:
    """UserError if a sample pruner's answer cannot be used. Our own may keep nothing (A10, `none`), others not."""
    shape = (len(candidates),)
    for name in ("role", "quadrant", "supplement", "weights"):
        column = getattr(selection, name, None)
        if column is None and name == "weights":
            continue
        if column is None or tuple(getattr(column, "shape", ())) != shape:
            raise UserError(f"pruner {info.name}: {name} must be a tensor of shape {shape}, one entry a sample")
    if not set(selection.role.unique().tolist()) <= {0, 2, 4}:
        raise UserError(f"pruner {info.name}: role must be DROPPED (0), PRUNABLE (2) or WHOLE (4)")
    if selection.weights is not None and not bool((selection.weights.isfinite() & (selection.weights >= 0)).all()):
        raise UserError(f"pruner {info.name}: weights must be finite and not negative")
    if info.name not in SAMPLE_PRUNERS and not bool(selection.kept.any()):
        raise UserError(f"pruner {info.name}: kept no sample of {len(candidates)}; keep at least one (budget.samples)")


def check_tokens(info: PrunerInfo, mask: "Tensor", candidates: "Candidates", selection: "SampleSelection") -> None:
    """UserError if a token pruner's answer cannot be used: wrong shape, tokens of dropped samples, nothing kept."""
    count = int(candidates.lengths.sum())
    if getattr(mask, "shape", None) != (count,) or str(mask.dtype) != "torch.bool":
        raise UserError(
            f"pruner {info.name}: must return a bool tensor of shape ({count},), one entry a response token"
        )
    if bool((mask & ~selection.kept[candidates.owner]).any()):
        raise UserError(f"pruner {info.name}: keeps tokens of samples that are not selected; use selection.kept")
    if not bool(mask.any()):
        raise UserError(f"pruner {info.name}: kept no token of {count}; keep at least one (budget.tokens)")


def _load(place: str) -> Any:
    """The object at `module:attribute`, looked up in the current directory, too."""
    name, _, attribute = place.partition(":")
    # console scripts and Snakemake do not look where the user stands; `python -m` does
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(name)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no message"
        raise UserError(f"pruner {place}: cannot import {name} ({type(error).__name__}: {reason})") from None
    if not attribute or not hasattr(module, attribute):
        valid = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"pruner {place}: {name} has no {attribute or 'attribute of no name'}{nearest(attribute, valid)}"
        )
    return getattr(module, attribute)


def _parameters(found: Callable[..., Any], place: str) -> tuple[str, ...]:
    """Names of the positional parameters of the call."""
    call = found.__call__ if inspect.isclass(found) else found  # type: ignore[operator]
    names = [p.name for p in inspect.signature(call).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return tuple(names[1:] if inspect.isclass(found) else names)


def _options_of(found: Callable[..., Any], place: str) -> type[NoOptions]:
    """A model of the keyword parameters: keyword-only ones of a function, all of a class's constructor."""
    constructor = inspect.isclass(found)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(found, eval_str=True).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if not constructor and parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if parameter.annotation is parameter.empty or parameter.default is parameter.empty:
            raise UserError(f"pruner {place}: option {parameter.name} needs an annotation and a default")
        fields[parameter.name] = (parameter.annotation, parameter.default)
    return create_model(f"Options of {place}", __base__=NoOptions, **fields)


def _digest(found: Callable[..., Any], place: str) -> str:
    """Of the file it is written in: cells are trained anew when it changes."""
    source = inspect.getsourcefile(found)
    if source is None:
        raise UserError(f"pruner {place}: has no source file, so its cells could not tell when it changes")
    return f"sha256:{hashlib.sha256(Path(source).read_bytes()).hexdigest()[:8]}"
