"""What a page shows of one training: the decisions of its trace, sample by sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from qtuning.data.kinds import Codes
from qtuning.experiment.cell import Pruning
from qtuning.probes.planted_errors import smoothing_of
from qtuning.train.decision import unpack_mask

OPTIONAL = {"mask": pl.Binary, "token_nll": pl.Binary, "token_entropy": pl.Binary}
"""Columns of a trace that older versions did not write."""

NO_MASKS = "The trace has no token masks (an older version trained it): which tokens were pruned is not known."
NO_TOKENS = "There are no scores of its tokens (it took none, or an older version trained it): they are not shaded."
NO_SCORES = "The method scores no samples, so it has no places of its own on the plane."
TRAINED_ONLY = "The method scores no tokens: the perplexity of those that it trained is known, and nothing else."

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Decisions:
    """The decisions of one training on the samples of a page.

    label: what people call it. cell: its name in results/cells, "" if there is none. method, budget: of its pruning.
    smoothing: lambda, and the factor of the two neighbours, of s_t (eq. 7). updates: how many there were. epochs: the
    first update of each. table: a row a decision, sorted by sample and update: the columns of the trace, `place` (of
    the sample on the page) and `told` (false: the epoch was drawn without the sample, and the trace has no row for it).
    """

    label: str
    cell: str
    method: str
    budget: str
    smoothing: tuple[float, float]
    updates: int
    epochs: tuple[int, ...]
    table: pl.DataFrame

    @property
    def notes(self) -> list[str]:
        """What the trace does not say."""
        told = self.table.filter(pl.col("told"))
        partial = told.filter(pl.col("kept") & (pl.col("kept_tokens") < pl.col("response_tokens")))
        found = []
        if partial["mask"].is_null().any():
            found.append(NO_MASKS)
        if told["ppl"].is_null().all():
            found.append(NO_SCORES)
        if told["token_nll"].is_null().all() and told["token_entropy"].is_null().all():
            found.append(NO_TOKENS)
        elif told["token_entropy"].is_null().all():
            found.append(TRAINED_ONLY)
        return found


def decisions_of(
    trace: pl.DataFrame,
    numbers: Sequence[int],
    *,
    label: str,
    pruning: Pruning,
    cell: str = "",
    whole: bool = True,
) -> Decisions:
    """The decisions of a trace on the samples of these numbers. whole: false if training ended inside an epoch.

    A method that draws an epoch without scores leaves no row for the samples that it does not draw: they were dropped.
    """
    trace = trace.with_columns(pl.lit(None, dtype).alias(n) for n, dtype in OPTIONAL.items() if n not in trace.columns)
    starts = trace.group_by("epoch").agg(pl.col("update").min()).sort("epoch")
    places = pl.DataFrame(
        {"sample": numbers, "place": range(len(numbers))}, schema={"sample": pl.Int64, "place": pl.UInt32}
    )
    told = trace.join(places, on="sample", maintain_order="left").with_columns(told=pl.lit(True))
    ended = starts if whole else starts.head(len(starts) - 1)
    missing = ended.join(places, how="cross").join(told, on=["epoch", "sample"], how="anti")
    silent = missing.with_columns(
        quadrant=pl.lit(0, pl.Int8),
        kept=pl.lit(False),
        supplement=pl.lit(False),
        kept_tokens=pl.lit(0, pl.Int32),
        told=pl.lit(False),
    )
    table = pl.concat([told, silent], how="diagonal_relaxed").sort("place", "update")
    updates = max(trace["update"].to_list(), default=0) + 1
    lambda_, neighbours = smoothing_of(pruning)
    smoothing = lambda_, lambda_ if neighbours == "sum" else lambda_ / 2  # as q_tuning.smooth has them
    return Decisions(label, cell, pruning.method, pruning.budget, smoothing, updates, tuple(starts["update"]), table)


def arrays_of(found: Decisions, kinds: Mapping[int, Codes]) -> Arrays:
    """The decisions as flat arrays, for the page. kinds: number of a sample -> kinds of its response tokens.

    flags: 1 kept, 2 by the supplement, 4 told by the trace, 8 with scores of tokens. pruned_kinds: bit k says that a
    token of kind k was pruned while others of the sample stayed.
    """
    table = found.table
    scored = pl.col("token_nll").is_not_null() | pl.col("token_entropy").is_not_null()
    flags = table.select(pl.col("kept") * 1 + pl.col("supplement") * 2 + pl.col("told") * 4 + scored * 8).to_series()
    return {
        "place": table["place"].to_numpy().astype(np.uint32),
        "update": table["update"].to_numpy().astype(np.uint32),
        "epoch": table["epoch"].to_numpy().astype(np.uint16),
        **{name: table[name].to_numpy().astype(np.float32) for name in ("ppl", "entropy", "weight", "loss")},
        "quadrant": table["quadrant"].to_numpy().astype(np.uint8),
        "flags": flags.to_numpy().astype(np.uint8),
        "kept_tokens": table["kept_tokens"].to_numpy().astype(np.uint32),
        "pruned_kinds": np.array(
            [_pruned_kinds(kinds[number], mask) for number, mask in table.select("sample", "mask").iter_rows()],
            dtype=np.uint8,
        ),
    }


def _pruned_kinds(kinds: Codes, mask: bytes | None) -> int:
    if mask is None:
        return 0
    pruned = np.unique(kinds[~unpack_mask(mask, len(kinds))])
    return int((1 << pruned.astype(np.int64)).sum())
