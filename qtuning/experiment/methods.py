"""Turns a method with its options into a `Pruning`: finds its pruners and validates their options.

Settings that make no difference to a method are set to their defaults, so that equal cells get equal names.
"""

from collections.abc import Mapping
from typing import Any

from qtuning.errors import UserError, raise_problems
from qtuning.experiment.auxiliary import Influence, TrainedReference
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Model, Pruning, Readings, Scoring
from qtuning.experiment.lookup import PARAMETERS, checked_options, find_pruner, kinds_of
from qtuning.experiment.needs import needs_of
from qtuning.experiment.places import belongs
from qtuning.experiment.presets import PRESETS
from qtuning.experiment.registry import (
    NAMED_METHODS,
    REFERENCE,
    SAMPLE_PRUNERS,
    TOKEN_PRUNERS,
    Need,
    PrunerInfo,
    PrunerKind,
)
from qtuning.experiment.schema import Experiment, MethodEntry, Ratios
from qtuning.experiment.yaml_files import nearest, validate


def make_pruning(
    entry: MethodEntry,
    budget: Ratios,
    readings: Readings | None = None,
    models: Mapping[str, Model] | None = None,
) -> Pruning:
    """A method at a budget.

    readings: those of the experiment; those of a preset override them, and the method's own options override both.
    models: by name, the models that `reference` and `proxy` may name; None only checks that they are given where they
    are needed. UserError with a line for each problem.
    """
    if entry.method in PRESETS:
        entry = entry.model_copy(update={"options": dict(PRESETS[entry.method].readings) | entry.options})
    names = NAMED_METHODS.get(entry.method, tuple(name.strip() for name in entry.method.split("+")))
    if len(names) == 1:
        _require_pair(names[0])
    if len(names) != 2:
        valid = [*NAMED_METHODS, "SAMPLE+TOKEN with SAMPLE one of " + ", ".join(SAMPLE_PRUNERS)]
        raise UserError(f"{entry.method!r}: unknown method{nearest(entry.method, valid)}")
    problems, found = [], []
    for name, kind in zip(names, PARAMETERS, strict=True):
        try:
            found.append(find_pruner(name, kind))
        except UserError as error:
            problems.append(str(error))
    raise_problems(problems)
    sample, token = found
    taken = [
        *_option_names(sample),
        *_option_names(token),
        *Readings.model_fields,
        "reference",
        "scoring",
        "proxy",
        "influence",
        "of",
    ]
    stray = sorted(set(entry.options) - set(taken))
    raise_problems(
        [
            f"{entry.method}: options.{key}: unknown key"
            f"{belongs(key, Experiment, in_options=True) or nearest(key, taken)}"
            for key in stray
        ]
    )
    sample_options, token_options = _options(sample, entry, "sample"), _options(token, entry, "token")
    needs = sample.needs_with(sample_options) | token.needs_with(token_options)
    sample_ratio = 1.0 if sample.scope == "none" else budget.sample_ratio
    token_ratio = 1.0 if token.scope == "none" else budget.token_ratio
    replayed = _replayed(entry, needs, budget, readings)
    return Pruning(
        sample_pruner=sample.name,
        token_pruner=token.name,
        sample_ratio=sample_ratio,
        token_ratio=token_ratio,
        sample_options=sample_options,
        token_options=token_options,
        sample_version=sample.version,
        token_version=token.version,
        reference=_reference(entry, needs, token.evolving, models),
        influence=_influence(entry, needs),
        replay=replayed,
        **(_scoring(entry, needs, models) or _pools_of(replayed)),
        **_readings(entry, readings or Readings(), sample, sample_ratio, token_ratio).model_dump(),
    )


def _require_pair(name: str) -> None:
    """UserError for a pruner that stands alone, with what makes a method of it; nothing for other names."""
    try:
        kinds = kinds_of(name)
    except UserError:
        if ":" in name:
            raise
        return
    alone = {"sample": f"{name}+none to prune samples alone", "token": f"full+{name} to prune tokens alone"}
    ways = [alone[kind] for kind in kinds]
    if len(kinds) == 2:
        raise UserError(f"{name!r}: is a sample pruner and a token pruner; write {name}+{name}, {', or '.join(ways)}")
    if kinds == ["sample"]:
        raise UserError(
            f"{name!r}: is a sample pruner without a token pruner; write {ways[0]}, or {name}+TOKEN with TOKEN one of "
            f"{', '.join(TOKEN_PRUNERS)}"
        )
    raise UserError(
        f"{name!r}: is a token pruner without a sample pruner; write {ways[0]}, or SAMPLE+{name} with SAMPLE one of "
        f"{', '.join(SAMPLE_PRUNERS)}"
    )


def _readings(
    entry: MethodEntry, common: Readings, sample: PrunerInfo, sample_ratio: float, token_ratio: float
) -> Readings:
    """The readings of a method; those without effect are at their defaults.

    A8 has none if no token is pruned, A9 if nothing is selected in a batch, A11 and A12 unless the sample pruner is a
    baseline that draws from the whole train set, A16 if all samples are kept.
    """
    own = {key: value for key, value in entry.options.items() if key in Readings.model_fields}
    asked = validate(Readings, common.model_dump() | own, f"{entry.method}: options")
    drawn, prunes_tokens = sample.draws and sample_ratio < 1, token_ratio < 1
    in_batch = sample.scope == "batch" or (drawn and (asked.updates, asked.passes) != ("as-defined", "once"))
    effective = dict.fromkeys(("updates", "passes"), drawn)
    effective |= {
        "pruned_tokens": prunes_tokens,
        "selection": prunes_tokens or in_batch,
        "kept_samples": sample_ratio < 1,
    }
    return Readings(**{key: getattr(asked, key) for key, matters in effective.items() if matters})


def _reference(
    entry: MethodEntry, needs: frozenset[Need], evolving: bool, models: Mapping[str, Model] | None
) -> Model | TrainedReference | None:
    """The model that `reference` names, or how the workflow shall train one; for methods that need one.

    evolving: whether the method updates its reference over parts of the train set.
    """
    asked, key = entry.options.get("reference"), f"{entry.method}: options.reference"
    if not needs & REFERENCE:
        if asked is not None:
            raise UserError(f"{key}: this method needs no reference model; leave it out")
        return None
    if isinstance(asked, Mapping):
        trained = validate(TrainedReference, asked, key)
        if evolving != (trained.parts > 1):
            must = "must be 2 or more" if evolving else "is for self-evolving alone; leave it out"
            raise UserError(f"{key}.parts = {trained.parts}: {must}")
        if evolving and trained.samples == 100:
            raise UserError(f"{key}.samples = 100: leaves nothing for {trained.parts} parts; must be below 100")
        return trained
    if evolving or not isinstance(asked, str):
        name = "" if evolving else "the name of a model in configs/models, with the same tokenizer, or "
        example = "{samples: 20, parts: 4}" if evolving else "{samples: 10}"
        raise UserError(
            f"{key}: required: {name}how to train one on per cent of the train set, as in {example} (docs/pruners.md)"
        )
    return None if models is None else models[asked]


def _influence(entry: MethodEntry, needs: frozenset[Need]) -> Influence | None:
    """How influence is measured, for methods that need it. grid.py fills in targets that are not given."""
    asked, key = entry.options.get("influence"), f"{entry.method}: options.influence"
    if "influence" not in needs:
        if asked is not None:
            raise UserError(f"{key}: this method needs no influence; leave it out")
        return None
    influence = validate(Influence, asked or {}, key)
    unknown = [name for name in influence.targets if name not in BENCHMARKS]
    raise_problems([f"{key}.targets = {name!r}: unknown{nearest(name, BENCHMARKS)}" for name in unknown])
    return influence


def _scoring(entry: MethodEntry, needs: frozenset[Need], models: Mapping[str, Model] | None) -> dict[str, Any]:
    """The fields `scoring` and `proxy` of a Pruning; none for methods that need no scores."""
    scoring = validate(Scoring, entry.options.get("scoring", {}), f"{entry.method}: options.scoring")
    name = entry.options.get("proxy")
    if (scoring.schedule == "proxy") != isinstance(name, str):
        raise UserError(
            f"{entry.method}: options.proxy: must name a model of configs/models where scoring.schedule is proxy, and "
            "only there"
        )
    if not needs & {"scores", "sequence-entropy"}:
        return {}
    return {"scoring": scoring, "proxy": models[name] if models and isinstance(name, str) else None}


def _replayed(entry: MethodEntry, needs: frozenset[Need], budget: Ratios, readings: Readings | None) -> Pruning | None:
    """The method that `of` names, at the same budget, for methods that replay one."""
    asked, key = entry.options.get("of"), f"{entry.method}: options.of"
    if "trace" not in needs:
        if asked is not None:
            raise UserError(f"{key}: this method replays nothing; leave it out")
        return None
    if asked is None:
        raise UserError(f"{key}: required: the method whose trace is replayed, as in `of: q-tuning`")
    replayed = validate(MethodEntry, {"method": asked} if isinstance(asked, str) else asked, key)
    if named := [name for name in ("reference", "proxy", "influence", "of") if name in replayed.options]:
        raise UserError(f"{key}.options.{named[0]}: a method with this option cannot be replayed; leave it out")
    try:
        pruning = make_pruning(replayed, budget, readings)
    except UserError as error:
        raise UserError("\n".join(f"{key}: {line}" for line in str(error).splitlines())) from None
    if needs_of(pruning).by_epoch or pruning.influence is not None:
        raise UserError(
            f"{key} = {replayed.method!r}: draws its samples before each epoch, and only what is decided in batches "
            "can be replayed; write `of: {method: ..., options: {updates: matched-updates}}`"
        )
    return pruning


def _pools_of(replayed: Pruning | None) -> dict[str, Any]:
    """The field `scoring` of a method that scores nothing itself, but makes the updates of pools that it replays."""
    pools = replayed is not None and replayed.scoring.schedule == "pool"
    return {"scoring": Scoring(schedule="pool", batches=replayed.scoring.batches)} if replayed and pools else {}


def _option_names(info: PrunerInfo) -> list[str]:
    return [field.alias or name for name, field in info.options.model_fields.items()]


def _options(info: PrunerInfo, entry: MethodEntry, kind: PrunerKind) -> dict[str, Any]:
    """The options of this pruner, validated, with defaults filled in."""
    mine = {key: value for key, value in entry.options.items() if key in _option_names(info)}
    return checked_options(info, mine, kind, f"{entry.method}: options")
