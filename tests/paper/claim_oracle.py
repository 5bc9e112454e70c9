"""Every claim, recomputed the plain way from the lines of the csv file: no code of the package."""

import csv
from decimal import Decimal as D
from pathlib import Path

SCORES = Path(__file__).parents[2] / "qtuning" / "assets" / "paper" / "reference_scores.csv"
HALF = D("0.005")  # the tables print two decimals
Line = dict[str, str]


def lines() -> list[Line]:
    with open(SCORES, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Line]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def several(good: list[bool]) -> str:
    return "holds" if all(good) else "holds in part" if any(good) else "contradicted"


def judge(rows: list[Line]) -> dict[str, tuple[str, list[str]]]:
    """Of every claim, by the name of its function: verdict, and figures as they are to be printed."""
    names = ("table", "model", "setting", "sample_ratio", "token_ratio", "sample_pruner", "token_pruner", "benchmark")
    score = {tuple(row[name] for name in names): D(row["score"]) for row in rows}

    def q(table: str, model: str, samples: str, tokens: str, benchmark: str = "avg") -> D:
        return score[table, model, "pruned", samples, tokens, "q-tuning", "q-tuning", benchmark]

    def full(table: str, model: str) -> D:
        return score[table, model, "full", "100", "100", "none", "none", "avg"]

    def margin(model: str, samples: str) -> D:
        """Table 1, 50% of the tokens: Q-Tuning minus the best baseline."""
        place = ("1", model, "pruned", samples, "50.0")
        rivals = [s for key, s in score.items() if key[:5] == place and key[5] != "q-tuning" and key[-1] == "avg"]
        assert len(rivals) == 16
        return q("1", model, samples, "50.0") - max(rivals)

    def near(value: D, slack: D, claimed: str) -> bool:
        """Whether the claimed figure, as printed, can be `value`, which is known to within `slack`."""
        digits = len(claimed.partition(".")[2])
        return abs(value - D(claimed)) <= slack + D(5).scaleb(-digits - 1)

    found: dict[str, tuple[str, list[str]]] = {}
    smol, base = q("2", "smollm2-1.7b", "25.0", "50.0"), full("2", "smollm2-1.7b")
    # the range that rounding of both figures allows, against 37.5 to 38.5
    low, high = ((smol - HALF) / (base + HALF) - 1) * 100, ((smol + HALF) / (base - HALF) - 1) * 100
    touches = high >= D("37.5") and low <= D("38.5")
    found["smollm2_gains_38_percent"] = several([touches]), [f"{(smol / base - 1) * 100:+.2f}%"]

    value = q("2", "llama3-8b", "50.0", "70.0", "gsm8k")
    found["llama3_reaches_48_on_gsm8k"] = several([near(value, HALF, "48.07")]), [f"{value:.2f}"]
    value = q("1", "llama2-7b", "25.0", "50.0")
    found["llama2_reaches_36_5"] = several([near(value, HALF, "36.5")]), [f"{value:.2f}"]
    for name, model, samples, claimed in (
        ("mistral_leads_by_1_63", "mistral-7b", "25.0", "1.63"),
        ("llama2_leads_by_3_3", "llama2-7b", "12.5", "3.3"),
        ("mistral_leads_by_2_7", "mistral-7b", "12.5", "2.7"),
    ):
        value = margin(model, samples)
        found[name] = several([near(value, 2 * HALF, claimed)]), [f"{value:+.2f}"]

    models = {"llama3-8b": "21.5", "mistral-7b": "26.6", "smollm2-1.7b": "11.8"}
    values = {claimed: q("2", model, "50.0", "70.0") for model, claimed in models.items()}
    good = [near(value, HALF, claimed) for claimed, value in values.items()]
    found["table2_averages_at_35_percent"] = several(good), [f"{value:.2f}" for value in values.values()]

    of_mistral = [(key[:-1], s) for key, s in score.items() if key[:2] == ("2", "mistral-7b") and key[-1] == "avg"]
    means = [((score[*key, "gsm8k"] + score[*key, "math"]) / 2, printed) for key, printed in of_mistral]
    wrong = [f"{mean:.3f}" for mean, printed in means if abs(mean - printed) > 2 * HALF]
    right = f"{len(means) - len(wrong)} of {len(means)}"
    found["mistral_averages_are_means"] = "contradicted" if wrong else "holds", [right, *wrong]

    different = [
        any(
            score["2", model, "pruned", "25.0", "50.0", pruner, "sparsevlm", benchmark]
            != score["2", model, "pruned", "25.0", "70.0", pruner, "sparsevlm", benchmark]
            for benchmark in ("gsm8k", "math")
        )
        for model in models
        for pruner in ("random", "longest", "infobatch", "entropy")
    ]
    found["sparsevlm_rows_differ"] = several(different), [f"{different.count(False)} of 12"]

    gains = [s - full(*key[:2]) for key, s in score.items() if key[5] == "q-tuning" and key[-1] == "avg"]
    above = sum(gain > 2 * HALF for gain in gains)
    verdict = "holds" if above == len(gains) else "cannot be judged"
    if any(gain < -2 * HALF for gain in gains):
        verdict = "contradicted"
    found["q_tuning_beats_full_data"] = verdict, [f"{above} of 15", f"to {max(gains):.2f} points"]
    return found
