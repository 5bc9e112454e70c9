"""Finds a pruner by its name: a built-in one, an installed package's entry point, or the user's `module:attribute`.

Needs no torch, neither to be imported nor to find a built-in pruner, so that reading a configuration stays fast.
"""

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import entry_points
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import Field, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError

from qtuning.errors import UserError
from qtuning.experiment import apart
from qtuning.experiment.cell import PrunerName, Readings
from qtuning.experiment.code_digest import code_digest, is_imported
from qtuning.experiment.registry import SAMPLE_PRUNERS, TOKEN_PRUNERS, Need, NoOptions, PrunerInfo, PrunerKind, Scope
from qtuning.experiment.yaml_files import explain, nearest, validate

BUILT_IN: dict[PrunerKind, dict[str, PrunerInfo]] = {"sample": SAMPLE_PRUNERS, "token": TOKEN_PRUNERS}
PARAMETERS: dict[PrunerKind, tuple[str, ...]] = {
    "sample": ("candidates", "budget", "rng"),
    "token": ("candidates", "selection", "budget", "rng"),
}
TAKEN = {
    *Readings.model_fields,
    "reference",
    "influence",
    "of",
}  # options of every method, whose names no pruner may use
DECLARED = "__qtuning_pruner__"  # the attribute in which `pruners.plugin.pruner` leaves (scope, needs)
DEFAULT_NEEDS: frozenset[Need] = frozenset({"scores"})
_described: dict[tuple[str, PrunerKind], PrunerInfo] = {}  # pruners that another process has looked at


def find_pruner(name: str, kind: PrunerKind) -> PrunerInfo:
    """The pruner `name` of that kind. UserError (one line) if there is none, or if it cannot be used.

    One of the user's own is imported here, but not while experiments are listed (`apart.listing`).
    """
    found = BUILT_IN[kind].get(name) or _described.get((name, kind))
    return found or (_describe if apart.is_listing() else _plugin)(name, kind)


def checked_options(info: PrunerInfo, options: Mapping[str, object], kind: PrunerKind, where: str) -> dict[str, Any]:
    """The options as a cell has them, with defaults filled in. UserError, after `where`, for wrong ones."""
    if (info.name, kind) in _described:
        asked = {"name": info.name, "kind": kind, "options": dict(options), "where": where}
        return dict(apart.looker().ask(info.function, asked))
    return validate(info.options, options, where).model_dump(mode="json", by_alias=True)


def kinds_of(name: str) -> list[PrunerKind]:
    """The kinds of pruner called `name`: both for some built-ins, else one. UserError if there is none."""
    known = {kind: {*BUILT_IN[kind], *_registered(kind)} for kind in PARAMETERS}
    kinds = [kind for kind, names in known.items() if name in names]
    if not kinds and ":" in name and apart.is_listing():
        return list(apart.looker().ask(name, {"name": name}))
    if not kinds and ":" in name:
        return [_kind_of(_load(name), name)]
    if not kinds:
        raise _unknown(name, "pruner", sorted(known["sample"] | known["token"]))
    return kinds


def bind_options(info: PrunerInfo, options: Mapping[str, object], kind: PrunerKind) -> Callable[..., Any]:
    """The pruner with its options: called with the arguments that PARAMETERS lists for its kind.

    A function gets the options as keyword arguments, a class gets them when it is made. They are called as the fields
    of `info.options` are (`lambda_`, not `lambda`). UserError for wrong options.
    """
    if (info.name, kind) in _described:  # what is called must be here
        info = _plugin(info.name, kind)
    values = dict(validate(info.options, options, f"{kind} pruner {info.name}: options"))
    found = _load(info.function)
    if not inspect.isclass(found):
        return partial(found, **values)
    try:
        return cast(Callable[..., Any], found(**values))
    except Exception as error:
        raise UserError(
            f"{kind} pruner {info.name}: cannot be made with these options: {describe_error(error)}"
        ) from None


def describe_error(error: BaseException) -> str:
    """What was raised, and on which line of the user's code: `ValueError: no such thing (my_pruners.py, line 7)`."""
    ours = str(Path(__file__).parents[1])
    others = ("<frozen", f"{os.sep}importlib{os.sep}", "site-packages", ours)
    own = [f for f in traceback.extract_tb(error.__traceback__) if not any(other in f.filename for other in others)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' if message else ''}{message}{where}"


def _describe(name: str, kind: PrunerKind) -> PrunerInfo:
    """What another process says of a pruner that is not built in."""
    if ":" not in _registered(kind).get(name, name):
        return _plugin(name, kind)  # which says that there is none
    told = apart.looker().ask(_registered(kind).get(name, name), {"name": name, "kind": kind})
    fields: dict[str, Any] = {
        key: (Any, Field(default, alias=alias)) for key, (alias, default) in told.pop("options").items()
    }
    options = create_model(f"{name} options", __base__=NoOptions, **fields)
    needs = frozenset(told.pop("needs"))
    _described[name, kind] = PrunerInfo(name=name, needs=needs, options=options, **told)
    return _described[name, kind]


@cache
def _plugin(name: str, kind: PrunerKind) -> PrunerInfo:
    """A pruner that is not built in, inspected: its kind, scope, needs, options and version."""
    registered = _registered(kind)
    place = registered.get(name, name)
    if ":" not in place:
        others = [other for other in PARAMETERS if name in BUILT_IN[other]]
        what = f"{kind} pruner" + "".join(f" (it is a {other} pruner)" for other in others)
        raise _unknown(name, what, [*BUILT_IN[kind], *registered])
    try:
        TypeAdapter(PrunerName).validate_python(name)
    except ValidationError:
        raise UserError(f"pruner {name}: must be at most 128 of A-Z a-z 0-9 . _ - and one colon; rename it") from None
    found = _load(place)
    if (told := _kind_of(found, place)) != kind:
        raise UserError(
            f"pruner {place}: is a {told} pruner by its parameters; a {kind} pruner, which is asked for here, takes "
            f"({', '.join(PARAMETERS[kind])})"
        )
    default: tuple[Scope, frozenset[Need]] = ("batch", DEFAULT_NEEDS)
    scope, needs = getattr(found, DECLARED, default)
    if "previous-scores" in needs:  # what is known an epoch later is scored now
        needs |= DEFAULT_NEEDS
    if kind == "token" and scope != "batch":
        raise UserError(f"pruner {place}: scope = {scope!r}: a token pruner works on batches; leave scope out")
    for need in ("losses", "previous-scores"):
        if scope == "once" and need in needs:
            what = need.replace("-", " ")
            raise UserError(f"pruner {place}: scope = 'once': before training there are no {what}; leave the need out")
    options = _options_of(found, place)
    if {"attention", "attention-rank"} & needs and "layer" not in options.model_fields:
        raise UserError(f"pruner {place}: needs attention, so it must say of which layer: an option layer: int = 2")
    return PrunerInfo(name, place, scope, needs, options, version=_digest(found, place), label=place.partition(":")[2])


def _registered(kind: PrunerKind) -> dict[str, str]:
    """name -> module:attribute of the pruners that installed packages offer."""
    return {entry.name: f"{entry.module}:{entry.attr}" for entry in entry_points(group=f"qtuning.{kind}_pruners")}


def _unknown(name: str, what: str, valid: list[str]) -> UserError:
    return UserError(f"{name!r}: unknown {what}{nearest(name, valid)}; one of your own goes by module:attribute")


def _load(place: str) -> Any:
    """The object at `module:attribute`, which may be a file in the current directory."""
    name, _, attribute = place.partition(":")
    # console scripts and Snakemake do not look where the user stands; `python -m` does
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UserError(f"pruner {place}: {name} cannot be imported: {describe_error(error)}") from None
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        valid = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise UserError(f"pruner {place}: {name} has no {attribute!r}{nearest(attribute, valid)}") from None


def _kind_of(found: object, place: str) -> PrunerKind:
    """The kind, by the names of the parameters (of a class: of its `__call__`), leading underscores aside."""
    if not callable(found):
        raise UserError(f"pruner {place}: is no function and no class but of type {type(found).__name__}")
    try:
        parameters = list(inspect.signature(found.__call__ if inspect.isclass(found) else found).parameters.values())
    except ValueError:  # some of what is written in C
        parameters = []
    names = [p.name.lstrip("_") for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = names[1:] if inspect.isclass(found) else names
    for kind, expected in PARAMETERS.items():
        if tuple(names) == expected:
            return kind
    forms = " and ".join(f"a {kind} pruner ({', '.join(expected)})" for kind, expected in PARAMETERS.items())
    more = "" if inspect.isclass(found) else ", with options after a *"
    raise UserError(f"pruner {place}: takes ({', '.join(names)}), but {forms}{more}")


def _options_of(found: Callable[..., Any], place: str) -> type[NoOptions]:
    """A pydantic model of the options: keyword-only parameters of a function, all parameters of a constructor."""
    parameters = [
        p
        for p in inspect.signature(found).parameters.values()
        if p.kind is p.KEYWORD_ONLY or (inspect.isclass(found) and p.kind is p.POSITIONAL_OR_KEYWORD)
    ]
    fields: dict[str, Any] = {p.name: _field(p, found, place) for p in parameters}
    return create_model(f"{place.partition(':')[2]} options", __base__=NoOptions, **fields)


def _field(parameter: inspect.Parameter, found: Callable[..., Any], place: str) -> tuple[Any, Any]:
    """Annotation and default of an option, as pydantic takes them.

    A trailing underscore belongs to Python alone, as in the built-in models: `lambda_` is configured as `lambda`.
    """
    name, annotation, where = parameter.name, parameter.annotation, f"pruner {place}: option {parameter.name}"
    if annotation is parameter.empty or parameter.default is parameter.empty:
        raise UserError(f"{where}: needs an annotation and a default, as in {name}: float = 0.5")
    alias = name.rstrip("_")
    if alias in TAKEN or hasattr(NoOptions, name) or name.startswith("_"):
        raise UserError(f"{where}: this name is taken; choose another")
    try:
        if isinstance(annotation, str):  # from __future__ import annotations
            annotation = eval(annotation, vars(_home(found, place)))
        field = annotation, Field(parameter.default, alias=alias, validate_default=True)
        fields: dict[str, Any] = {name: field}
        create_model("Default", __base__=NoOptions, **fields)().model_dump_json()
    except ValidationError as error:
        raise UserError("\n".join(explain(error, f"pruner {place}: default of option", NoOptions))) from None
    except (PydanticUserError, NameError, ValueError) as error:
        raise UserError(f"{where}: its type is none that a configuration can hold: {describe_error(error)}") from None
    return field


def _home(found: Callable[..., Any], place: str) -> ModuleType:
    """The module that a pruner is written in; for an instance, the module that it was found in."""
    named = inspect.isroutine(found) or inspect.isclass(found)
    return sys.modules[found.__module__ if named else place.partition(":")[0]]


def _digest(found: Callable[..., Any], place: str) -> str:
    """Digest of the code of a pruner: when it changes, the pruner's cells are trained anew (code_digest.py).

    It begins where the pruner is written; what makes another function of it where it is named counts, too.
    """
    module, _, attribute = place.partition(":")
    home, named = _file_of(_home(found, place), place), _file_of(sys.modules[module], place)
    files = {named: attribute.partition(".")[0]}
    if home != named:
        written = {home: found.__qualname__.partition(".")[0]}
        files = written if is_imported(named, files[named]) else written | files
    return f"sha256:{code_digest(files)}"


def _file_of(module: ModuleType, place: str) -> Path:
    """The file that a module was read from; UserError for one that was read from none."""
    source = getattr(module, "__file__", None)
    if source is None:
        raise UserError(f"pruner {place}: is written in no file, so nothing could tell when it changes; save it in one")
    return Path(source)
