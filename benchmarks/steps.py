"""The step table: plain and pruned training steps against each other and against the limit F(all) + 3F(kept)."""

import copy
from collections.abc import Callable
from functools import partial

import torch

from benchmarks import paths
from benchmarks.clock import alternate
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting, build, forwarded, keep_share, ragged
from qtuning.model.batch import pack
from qtuning.model.packed import PackedModel

RATIOS = (0.125, 0.25, 0.5)
TO_PLAIN = {0.125: 0.48, 0.25: 0.60, 0.5: 0.82}
TO_TRANSFORMERS = {0.125: 0.28, 0.25: 0.35, 0.5: 0.48}
TO_LIMIT = 1.03
PLAIN_TO_TRANSFORMERS = 0.60
Bounds = tuple[float | None, float | None, float | None]


def run(setting: Setting) -> list[Table]:
    """One table in float32; on a GPU that can, another with all of it under bfloat16 autocast."""
    tables = [_table(setting, None)]
    if setting.device.type == "cuda" and torch.cuda.is_bf16_supported():
        tables.append(_table(setting, torch.bfloat16))
    return tables


def _table(setting: Setting, precision: torch.dtype | None) -> Table:
    device, sizes = setting.device, setting.sizes
    theirs = build(sizes.model, device)
    model = PackedModel(copy.deepcopy(theirs))
    samples = ragged(8, sizes.model.vocabulary, sizes.stretch)
    batch, packed = paths.padded(samples, device), pack(samples)
    assert packed is not None
    everything = packed.to(device)
    kept = {ratio: keep_share(samples, ratio, paths.TOKEN_RATIO) for ratio in RATIOS}
    trained = {ratio: forwarded(samples, kept[ratio]) for ratio in RATIOS}
    methods = {ratio: paths.q_tuning(ratio) for ratio in RATIOS}

    def cast(action: Callable[[], object]) -> Callable[[], None]:
        def inside() -> None:
            with paths.autocast(device, precision):
                action()

        return inside

    variants: dict[str, Callable[[], object]] = {
        "transformers": partial(paths.plain_transformers, theirs, batch),
        "plain": partial(paths.plain, model, samples, device),
        "naive": partial(paths.naive, theirs, batch, samples, kept[0.25], methods[0.25]),
        "F": partial(model.score, everything),
    }
    for ratio in RATIOS:
        variants[f"{ratio}"] = partial(paths.ours, model, samples, kept[ratio], methods[ratio], device)
        variants[f"reused {ratio}"] = partial(paths.reused, model, samples, kept[ratio], methods[ratio], device)
    times = alternate({name: cast(action) for name, action in variants.items()}, sizes.repeats, device)

    exact = precision is None

    def row(name: str, label: str, share: float | None, bounds: Bounds) -> dict[str, Value]:
        """share: trained tokens / all tokens. bounds: of the ratios to plain, limit and transformers."""
        plain, stock = times.ratio(name, "plain"), times.ratio(name, "transformers")
        limit = None if share is None else times.ratio(name, "F", 1 + 3 * share)
        return {
            "step": label,
            "ms": times.milliseconds(name),
            "/ plain ours": _checked(plain, bounds[0] if exact else None),
            "its range": times.spread(name, "plain"),
            "/ limit": _checked(limit, bounds[1] if exact else None),
            "range": None if share is None else times.spread(name, "F", 1 + 3 * share),
            "/ transformers": _checked(stock, bounds[2] if exact else None),
        }

    rows = [
        row("transformers", "plain SFT, transformers, padded", None, (None, None, None)),
        row("plain", "plain SFT, ours", None, (None, None, PLAIN_TO_TRANSFORMERS)),
        row("naive", "Q-Tuning, naive: one forward, full softmaxes", None, (None, None, None)),
        row("F", "F: scores of all, ours", None, (None, None, None)),
    ]
    for ratio in RATIOS:
        bounds = TO_PLAIN[ratio], TO_LIMIT, TO_TRANSFORMERS[ratio]
        rows.append(row(f"{ratio}", f"Q-Tuning, ours, {ratio:.1%}", trained[ratio], bounds))
    none = None, None, None
    rows += [row(f"reused {ratio}", f"Q-Tuning, reused graphs, {ratio:.1%}", trained[ratio], none) for ratio in RATIOS]
    shares = ", ".join(f"{kept[r].share:.1%} ({trained[r]:.1%} without their tails)" for r in RATIOS)
    return Table(
        f"Step, full fine-tuning, {'float32' if exact else 'bfloat16 autocast'}",
        rows,
        (
            f"{sizes.model}; forward and backward, no optimizer step; median of {sizes.repeats}, ratios paired.",
            f"8 ragged samples: {packed.tokens} tokens, {batch.response.numel()} padded, {packed.targets} of them "
            "response. Token ratio 0.7, at random.",
            f"Tokens of the kept samples / all tokens: {shares}. The decision of triage and token pruning is made in "
            "every step, but what is trained is these sets, whose size is known.",
            "limit: F (1 + 3 x the share without tails); dropped tokens skip the head, so it can be undercut. Ranges: "
            "over the passes. Reused graphs (docs/scoring.md) have a lower one, F (1 + 2 x the share), but hold the "
            "activations of the whole batch.",
        ),
        times.seconds,
    )


def _checked(value: float | None, bound: float | None) -> Value:
    return value if value is None or bound is None else Checked(value, bound)
