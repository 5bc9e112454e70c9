"""bfloat16 scores for float32 training (opt-in): what they save, and how often they decide otherwise."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import paths
from benchmarks.clock import alternate
from benchmarks.mini import mini_world
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting, build, keep_share, ragged
from qtuning.data.samples import Sample
from qtuning.model.load import load_model, model_path
from qtuning.model.packed import PackedModel, half_weights
from qtuning.pruners.base import Candidates
from qtuning.pruners.method import Method
from qtuning.scoring.scores import observe

TO_PLAIN = {0.125: 0.27, 0.25: 0.39}
OVERLAP = 0.97
LEARNING_RATE = 1e-3


def run(setting: Setting) -> list[Table]:
    """The cost of the step, and the fidelity of the decision."""
    return [_cost(setting), _fidelity(setting)]


def _cost(setting: Setting) -> Table:
    device, sizes = setting.device, setting.sizes
    model = PackedModel(build(sizes.model, device))
    samples = ragged(8, sizes.model.vocabulary, sizes.stretch)
    variants: dict[str, Callable[[], object]] = {"plain": partial(paths.plain, model, samples, device)}
    for ratio in TO_PLAIN:
        kept, method = keep_share(samples, ratio, paths.TOKEN_RATIO), paths.q_tuning(ratio)
        variants[f"{ratio}"] = partial(paths.ours, model, samples, kept, method, device, torch.bfloat16)
    slow = device.type == "cpu" and not fast_on_cpu()
    passes = 1 if slow else sizes.fewer
    times = alternate(variants, passes, device)
    rows: list[dict[str, Value]] = [{"step": "plain SFT, ours, float32", "ms": times.milliseconds("plain")}]
    for ratio, bound in TO_PLAIN.items():
        figure = Checked(times.ratio(f"{ratio}", "plain"), bound)
        rows.append(
            {
                "step": f"Q-Tuning, {ratio:.1%}",
                "ms": times.milliseconds(f"{ratio}"),
                "/ plain ours": figure,
                "its range": times.spread(f"{ratio}", "plain"),
            }
        )
    copies = sum(weight.nbytes for weight in half_weights(model).values()) / 2**20
    notes = [
        f"Model and batch of the step table; median of {passes}, ratios paired. The weights are copied to "
        f"bfloat16 in every step: {copies:,.0f} MiB, freed before training.",
    ]
    if slow:
        notes.append(
            "This processor has no bfloat16 arithmetic (avx512_bf16, amx): scores in bfloat16 cost more than in "
            "float32, and the targets mean nothing here."
        )
    return Table("Step, scores under bfloat16 autocast, float32 training", rows, tuple(notes), times.seconds)


def fast_on_cpu() -> bool:
    """Whether products in bfloat16 take less time than in float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _fidelity(setting: Setting) -> Table:
    """Decisions by bfloat16 scores against those by exact ones, of a model that has learned a little."""
    device, sizes = setting.device, setting.sizes
    with mini_world() as mini:
        samples = mini.samples()
        language_model = load_model(model_path(mini.paths.model(mini.cell)), "float32")
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [samples[index] for index in order]
    model = PackedModel(language_model).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for update in range(sizes.learned):
        paths.plain(model, shuffled[8 * update : 8 * update + 8], device)
        optimizer.step()
    unseen = shuffled[8 * sizes.learned :][: sizes.judged]
    rows: list[dict[str, Value]] = []
    for size in (8, 32):
        batches = [unseen[start : start + size] for start in range(0, len(unseen), size)]
        exact, half = ([_known(model, b, device, scoring) for b in batches] for scoring in (None, torch.bfloat16))
        for ratio in TO_PLAIN:
            agreed = [_agreement(*pair, paths.q_tuning(ratio)) for pair in zip(exact, half, strict=True)]
            kept, tokens, quadrant = (sum(values) / len(agreed) for values in zip(*agreed, strict=True))
            rows.append(
                {
                    "selection": f"batches of {size}, {ratio:.1%}",
                    "batches": len(batches),
                    "overlap of kept samples": Checked(kept, OVERLAP, at_least=True),
                    "overlap of kept tokens": tokens,
                    "same quadrant": quadrant,
                }
            )
    return Table(
        "Decisions by bfloat16 scores against exact ones",
        rows,
        (
            f"Mini model after {sizes.learned} updates on mini-world samples; {len(unseen)} samples it has not seen. "
            "Overlap: |both| / |exact|, mean over the batches.",
        ),
    )


def _known(
    model: PackedModel, batch: Sequence[Sample], device: torch.device, scoring: torch.dtype | None
) -> Candidates:
    weights = None if scoring is None else half_weights(model)
    with paths.autocast(device, scoring):
        scores = observe(model, batch, {"scores"}, None, device, weights).scores
    assert scores is not None
    return paths.candidates(batch, scores)


def _agreement(exact: Candidates, half: Candidates, method: Method) -> tuple[float, float, float]:
    """Overlap of kept samples and of kept tokens, and share of samples in the same quadrant."""
    one, other = (method.select(known, torch.Generator().manual_seed(0)) for known in (exact, half))
    samples = (one.samples.kept & other.samples.kept).sum() / one.samples.kept.sum()
    tokens = (one.tokens & other.tokens).sum() / one.tokens.sum()
    quadrants = (one.samples.quadrant == other.samples.quadrant).double().mean()
    return float(samples), float(tokens), float(quadrants)
