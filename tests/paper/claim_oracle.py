"""Every claim, recomputed the plain way from the lines of the csv file: no code of the package."""

import csv
from collections.abc import Iterable
from decimal import Decimal as D
from pathlib import Path

PAPER = Path(__file__).parents[2] / "qtuning" / "assets" / "paper"
HALF = D("0.005")  # the tables print two decimals
Line = dict[str, str]


def lines(path: Path = PAPER / "reference_scores.csv") -> list[Line]:
    with open(path, encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def write(path: Path, rows: list[Line]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def pick(rows: Iterable[Line], **wanted: str) -> list[D]:
    return [D(row["score"]) for row in rows if all(row[key] == value for key, value in wanted.items())]


def at(table: str, model: str, samples: str, tokens: str, benchmark: str = "avg") -> dict[str, str]:
    return {
        "table": table,
        "model": model,
        "sample_ratio": samples,
        "token_ratio": tokens,
        "benchmark": benchmark,
        "setting": "pruned",
    }


def q(rows: list[Line], where: dict[str, str]) -> D:
    (score,) = pick(rows, **where, sample_pruner="q-tuning")
    return score


def full(rows: list[Line], table: str, model: str, benchmark: str = "avg") -> D:
    (score,) = pick(rows, table=table, model=model, benchmark=benchmark, setting="full")
    return score


def best_baseline(rows: list[Line], where: dict[str, str]) -> D:
    return max(pick([row for row in rows if row["sample_pruner"] != "q-tuning"], **where))


def near(value: D, slack: D, claimed: str) -> bool:
    """Whether the claimed figure, as printed, can be `value`, which is known to within `slack`."""
    digits = len(claimed.partition(".")[2])
    return abs(value - D(claimed)) <= slack + D(5).scaleb(-digits - 1)


def several(good: list[bool]) -> str:
    return "holds" if all(good) else "holds in part" if any(good) else "contradicted"


def averages(rows: list[Line], table: str, model: str) -> list[tuple[D, D]]:
    """(mean of the benchmarks, printed average) of each row."""
    groups: dict[tuple[str, ...], dict[str, D]] = {}
    for row in rows:
        if row["table"] == table and row["model"] == model:
            key = tuple(
                row[name] for name in ("setting", "sample_ratio", "token_ratio", "sample_pruner", "token_pruner")
            )
            groups.setdefault(key, {})[row["benchmark"]] = D(row["score"])
    pairs = []
    for scores in groups.values():
        cells = [score for benchmark, score in scores.items() if benchmark != "avg"]
        pairs.append((sum(cells, D(0)) / len(cells), scores["avg"]))
    return pairs


def judge(rows: list[Line]) -> dict[str, tuple[str, list[str]]]:
    """Of every claim, by the name of its function: verdict, and figures as they are to be printed."""
    found: dict[str, tuple[str, list[str]]] = {}
    smol, base = q(rows, at("2", "smollm2-1.7b", "25.0", "50.0")), full(rows, "2", "smollm2-1.7b")
    relative = (smol / base - 1) * 100
    # the range that rounding of both figures allows, against 37.5 to 38.5
    low, high = ((smol - HALF) / (base + HALF) - 1) * 100, ((smol + HALF) / (base - HALF) - 1) * 100
    touches = high >= D("37.5") and low <= D("38.5")
    found["smollm2_gains_38_percent"] = ("holds" if touches else "contradicted", [f"{relative:+.2f}%"])

    value = q(rows, at("2", "llama3-8b", "50.0", "70.0", "gsm8k"))
    found["llama3_reaches_48_on_gsm8k"] = (several([near(value, HALF, "48.07")]), [f"{value:.2f}"])
    value = q(rows, at("1", "llama2-7b", "25.0", "50.0"))
    found["llama2_reaches_36_5"] = (several([near(value, HALF, "36.5")]), [f"{value:.2f}"])
    for name, model, samples, claimed in (
        ("mistral_leads_by_1_63", "mistral-7b", "25.0", "1.63"),
        ("llama2_leads_by_3_3", "llama2-7b", "12.5", "3.3"),
        ("mistral_leads_by_2_7", "mistral-7b", "12.5", "2.7"),
    ):
        where = at("1", model, samples, "50.0")
        value = q(rows, where) - best_baseline(rows, where)
        found[name] = (several([near(value, 2 * HALF, claimed)]), [f"{value:+.2f}"])

    values = [q(rows, at("2", model, "50.0", "70.0")) for model in ("llama3-8b", "mistral-7b", "smollm2-1.7b")]
    good = [near(value, HALF, claimed) for value, claimed in zip(values, ("21.5", "26.6", "11.8"), strict=True)]
    found["table2_averages_at_35_percent"] = (several(good), [f"{value:.2f}" for value in values])

    pairs = averages(rows, "2", "mistral-7b")
    wrong = [mean for mean, printed in pairs if abs(mean - printed) > 2 * HALF]
    found["mistral_averages_are_means"] = (
        "contradicted" if wrong else "holds",
        [f"{len(pairs) - len(wrong)} of {len(pairs)}", *(f"{mean:.3f}" for mean in wrong)],
    )

    different = []
    for model in ("llama3-8b", "mistral-7b", "smollm2-1.7b"):
        for pruner in ("random", "longest", "infobatch", "entropy"):
            sides = [
                [
                    pick(
                        rows,
                        **at("2", model, "25.0", tokens, benchmark),
                        sample_pruner=pruner,
                        token_pruner="sparsevlm",
                    )
                    for benchmark in ("gsm8k", "math")
                ]
                for tokens in ("50.0", "70.0")
            ]
            different.append(sides[0] != sides[1])
    found["sparsevlm_rows_differ"] = (several(different), [f"{different.count(False)} of 12"])

    gains = [
        D(row["score"]) - full(rows, row["table"], row["model"])
        for row in rows
        if row["sample_pruner"] == "q-tuning" and row["benchmark"] == "avg"
    ]
    verdict = "holds" if all(gain > 2 * HALF for gain in gains) else "cannot be judged"
    found["q_tuning_beats_full_data"] = (
        "contradicted" if any(gain < -2 * HALF for gain in gains) else verdict,
        [f"{sum(gain > 2 * HALF for gain in gains)} of 15", f"to {max(gains):.2f} points"],
    )
    return found
