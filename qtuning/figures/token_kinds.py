"""Figure 7: what kinds of tokens are pruned and what kinds are kept, beside the published shares."""

from typing import Any

import polars as pl
from matplotlib.axes import Axes

from qtuning.figures.points import budget_name
from qtuning.figures.style import BLACK, BLUE, COLUMN, PAGE, VERMILLION, Drawing, legend_below, letter, panels, styled
from qtuning.paper.token_kinds import LABELS, SIDES

LOOKS = {"pruned": (VERMILLION, -0.2, "//"), "kept": (BLUE, 0.2, "")}
"""Colour of a side, how far its bar is from the middle of its row, and its hatch."""


@styled()
def draw_token_kinds(frame: pl.DataFrame) -> Drawing:
    """Bars by kind: per cent of the pruned and of the kept tokens; a panel per method, budget, model and train set.

    frame: that of `kinds_of_lines` (paper/token_kinds.py), all of which is in the data.
    """
    parts = frame.partition_by("train_set", "model", "label", "budget", maintain_order=True)
    columns = min(2, len(parts))
    rows = -(-len(parts) // columns)
    width = PAGE if columns > 1 else COLUMN
    figure, axes = panels(rows, columns, width, 2.3 * rows + 0.45, sharex=True, sharey=True)
    for index, (panel, part) in enumerate(zip(axes, parts, strict=False)):
        _draw_part(panel, part)
        if len(parts) > 1:
            letter(panel, index, _title(part, frame))
    for panel in axes[len(parts) :]:
        panel.remove()
    for panel in axes[max(0, len(parts) - columns) : len(parts)]:
        panel.set_xlabel("Share of the tokens (%)")
        panel.tick_params(labelbottom=True)
    axes[0].set_yticks(range(len(LABELS)), list(LABELS.values()))
    axes[0].set_ylim(len(LABELS) - 0.45, -0.55)
    axes[0].set_xlim(0, None)
    order = [*(f"{side.capitalize()} tokens" for side in SIDES), "Published"]
    legend_below(figure, axes[: len(parts)], 3, order, handlelength=1.4)
    about = "" if len(parts) > 1 else f" by {_title(parts[0], frame.clear())}"
    text = (
        f"Kinds of the tokens pruned{about} (hatched) and of those kept, in samples that may lose tokens (Q2-like; "
        "with a baseline all kept samples), in all epochs. Bars of one colour add up to 100%; they are means over the "
        "seeds, whiskers ± 1 sample standard deviation. Diamonds: published shares, each on its bar (Q-Tuning, "
        "MathInstruct, Mistral-7B; which of them are of pruned tokens is inferred). The kinds follow from our rules; "
        "the paper gives none."
    )
    return Drawing(figure, frame, text)


def _draw_part(panel: Axes, part: pl.DataFrame) -> None:
    kinds = part.sort(pl.col("kind").replace_strict({kind: place for place, kind in enumerate(LABELS)}))
    for side in SIDES:
        colour, offset, hatch = LOOKS[side]
        places = [place + offset for place in range(len(LABELS))]
        shares = kinds[side].fill_null(0.0).to_list()
        look: dict[str, Any] = {"height": 0.38, "color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        panel.barh(places, shares, label=f"{side.capitalize()} tokens", **look)
        spread = kinds[f"{side}_sd"].fill_null(0.0).to_list()
        if any(spread):
            panel.errorbar(shares, places, xerr=spread, linestyle="none", color="black", elinewidth=0.6)
        mark: dict[str, Any] = {"linestyle": "none", "marker": "D", "markersize": 3.4, "zorder": 4}
        mark |= {"markerfacecolor": "white", "markeredgecolor": BLACK, "markeredgewidth": 0.8}
        if kinds[f"{side}_published"].null_count() == 0:
            panel.plot(kinds[f"{side}_published"], places, label="Published", **mark)
    for place in kinds[SIDES[0]].is_null().arg_true():
        panel.annotate("–", (0.5, place), va="center")
    panel.grid(visible=False, axis="y")
    panel.tick_params(axis="y", length=0)


def _title(part: pl.DataFrame, frame: pl.DataFrame) -> str:
    """What tells a panel from the others: method and budget, and model and train set where there are several."""
    row = part.row(0, named=True)
    words = [f"{row['label']}, {budget_name(row['sample_ratio'], row['token_ratio'])}%"]
    words += [row[name] for name in ("model", "train_set") if len(frame) and frame[name].n_unique() > 1]
    return ", ".join(words)
