"""The claims' verdicts and the mistakes of the printed numbers, worked out the plain way from the lines of the csv
files: no code of the package, scores in hundredths of a point."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

PAPER = Path(__file__).parents[2] / "qtuning" / "assets" / "paper" / "v2"
Line = dict[str, str]
LARGE = ("1", "2", "8", "9", "10", "11", "12")
NAMES = ("table", "model", "setting", "sample_ratio", "token_ratio", "sample_pruner", "token_pruner", "variant")
ITSELF = ("", "lambda:0.5", "ticks:3;sample:q1+q3;token:q2")


def lines(name: str = "scores") -> list[Line]:
    with open(PAPER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(folder: Path, **changed: list[Line]) -> Path:
    """A folder with the three files, some of them with other lines."""
    for name in ("scores", "efficiency", "figure7"):
        rows = changed.get(name) or lines(name)
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def several(good: list[bool]) -> str:
    return "holds" if all(good) else "partly" if any(good) else "contradicted"


class Scores:
    """Scores by place; `q` is Q-Tuning's."""

    def __init__(self, rows: list[Line]) -> None:
        self.cells: dict[tuple[str, ...], dict[str, int]] = {}
        for row in rows:
            place = tuple(row[name] for name in NAMES)
            self.cells.setdefault(place, {})[row["benchmark"]] = round(float(row["score"]) * 100)

    def q(self, table: str, model: str, samples: str, tokens: str) -> dict[str, int]:
        for variant in ITSELF:
            found = self.cells.get((table, model, "pruned", samples, tokens, "q-tuning", "q-tuning", variant))
            if found:
                return found
        raise KeyError((table, model, samples, tokens))

    def full(self, table: str, model: str) -> dict[str, int]:
        return self.cells[table, model, "full", "100", "100", "none", "none", ""]

    def zero(self, table: str, model: str) -> dict[str, int]:
        return self.cells[table, model, "zero_shot", "0", "0", "none", "none", ""]

    def sixteen(self, table: str, model: str, samples: str, tokens: str) -> dict[str, dict[str, int]]:
        place = (table, model, "pruned", samples, tokens)
        found = {f"{k[5]}+{k[6]}": v for k, v in self.cells.items() if k[:5] == place and k[5] != "q-tuning"}
        assert len(found) == 16
        return found

    def blocks(self, *tables: str) -> list[tuple[str, str, str, str]]:
        return list(
            dict.fromkeys((k[0], k[1], k[3], k[4]) for k in self.cells if k[5] == "q-tuning" and k[0] in tables)
        )


def judge(rows: list[Line], efficiency: list[Line], figure7: list[Line]) -> list[str]:
    """The verdict on every claim of the audit, in its order. Claimed figures are compared as printed: a claim of k
    decimals holds what lies within half a unit of it, and the rounding of each score adds half a hundredth."""
    s = Scores(rows)

    def near(claimed: float, value: float, scores: int = 1) -> bool:
        digits = len(str(claimed).partition(".")[2]) if isinstance(claimed, float) else 0
        return abs(value - claimed * 100) <= 50 / 10**digits + 0.5 * scores + 1e-9

    def best(place: tuple[str, str, str, str], name: str = "avg") -> int:
        return max(cells[name] for cells in s.sixteen(*place).values())

    large = s.blocks(*LARGE)
    named = [(p, name) for p in large for name in s.q(*p) if name != "avg"]
    over_full = [s.q(*p)["avg"] > s.full(*p[:2])["avg"] for p in large]
    found: list[str] = []

    def gain38() -> str:
        mine, base = s.q("2", "smollm2-1.7b", "25.0", "50.0")["avg"], s.full("2", "smollm2-1.7b")["avg"]
        high, low = (mine + 0.5) / (base - 0.5), (mine - 0.5) / (base + 0.5)
        return several([high >= 1.375 and low <= 1.385])

    # abstract, section 1
    found.append(gain38())
    found.append(several([s.q(*p)["avg"] > best(p) for p in large] + [s.q(*p)[n] > best(p, n) for p, n in named]))
    found.append(several(over_full + [s.q(*p)[n] > s.full(*p[:2])[n] for p, n in named]))
    place = ("12", "llama3-8b", "50.0", "70.0")
    gsm = s.q(*place)["gsm8k"]
    of48 = [near(48.07, gsm), near(6.0, gsm - s.full(*place[:2])["gsm8k"], 2), near(9.9, gsm - best(place, "gsm8k"), 2)]
    found += [several([good]) for good in of48]
    # section 4.1
    small = [("1", model, "12.5", "50.0") for model in ("llama2-7b", "mistral-7b")]
    found.append(
        several(
            [near(claim, s.q(*p)["avg"]) for claim, p in zip((37.74, 46.92), small, strict=True)]
            + [near(claim, s.full(*p[:2])["avg"]) for claim, p in zip((35.36, 45.84), small, strict=True)]
            + [s.q(*p)["avg"] > other for p in small for other in (best(p), s.full(*p[:2])["avg"])]
        )
    )
    ten = [(p, name) for p in small for name in s.q(*p) if name != "avg"]
    found.append(
        several(
            [s.q(*p)[n] > o for p, n in ten for o in (s.sixteen(*p)["random+random"][n], s.full(*p[:2])[n], best(p, n))]
        )
    )
    qwen = s.blocks("10", "11")
    weakest = {p: min(cells["avg"] for cells in s.sixteen(*p).values()) for p in qwen}
    over_random = max(s.q(*p)["avg"] - s.sixteen(*p)["random+random"]["avg"] for p in qwen)
    found.append(several([near(8.23, over_random, 2), near(8.23, max(s.q(*p)["avg"] - weakest[p] for p in qwen), 2)]))
    found.append(several([near(5.55, max(s.q(*p)["avg"] - best(p) for p in qwen), 2)]))
    fastv = [v["avg"] for k, v in s.cells.items() if k[0] in ("2", "12") and k[1] == "llama3-8b" and k[6] == "fastv"]
    found.append(several([sum(score < 600 for score in fastv) >= 2]))
    maths = [("2", model, "25.0", "50.0") for model in ("llama3-8b", "mistral-7b", "smollm2-1.7b")]
    of_random = {p: s.sixteen(*p) for p in maths}
    found.append(
        several(
            [
                of_random[p][f"{name}+random"]["avg"] > of_random[p]["random+random"]["avg"]
                for p in maths
                for name in ("entropy", "infobatch")
            ]
        )
    )
    gains = [s.q(*p)["avg"] - of_random[p]["random+random"]["avg"] for p in maths]
    found.append(
        several(
            [near(7.67, gains[0], 2), near(10.29, gains[1], 2)]
            + [near(claim, s.q(*p)["avg"]) for claim, p in zip((20.93, 22.74), maths, strict=False)]
        )
    )
    found.append(several([s.q(*p)["gsm8k"] > s.full(*p[:2])["gsm8k"] for p in maths[:2]]))
    more = [s.q(*p)["avg"] - s.full(*p[:2])["avg"] for p in maths]
    found.append(several([each[a] > each[b] for each in (gains, more) for a, b in ((0, 1), (0, 2), (1, 2))]))
    # figure 3

    def at_12(table: str, model: str, names: tuple[str, ...], tokens: tuple[str, ...]) -> int:
        rival = [v["avg"] for k, v in s.cells.items() if k[:2] == (table, model) and k[3] == "12.5" and k[4] in tokens
                 and (k[5] in names or k[6] in names)]  # fmt: skip
        return max(rival)

    four, two = ("alpagasus", "deita", "ds2", "less"), ("rho-1", "token-cleaning")
    mine = [s.q(*p)["avg"] for p in small]
    models = [p[1] for p in small]
    either, half = ("50.0", "100"), ("50.0",)
    found.append(
        several(
            [
                near(claim, q - at_12("13", model, four, tokens), 2)
                for tokens in (either, half)
                for claim, q, model in zip((3.44, 2.0), mine, models, strict=True)
            ]
        )
    )
    found.append(
        several(
            [
                near(claim, q - other, 2)
                for claim, q, model in zip((3.92, 3.35), mine, models, strict=True)
                for token in [at_12("14", model, two, half)]
                for other in (token, max(token, at_12("14", model, (*two, "random"), half)))
            ]
        )
    )
    old = [best(p) for p in small]
    new = [max(at_12("13", model, four, either), at_12("14", model, two, half)) for model in models]
    found.append(several([b > a for a, b in zip(old, new, strict=True)]))
    found.append(several([s.full("13", model)["avg"] >= q for model, q in zip(models, mine, strict=True)]))
    # table 3
    budgets = s.blocks("3")
    averages = [s.q(*p)["avg"] for p in budgets]
    elsewhere = [
        s.q(*p) == s.q(*other)
        for p in budgets
        for other in s.blocks(*LARGE, "5", "13", "14", "15")
        if other[1] == p[1] and other[2:] != p[2:]
    ]
    differs = s.q("3", "mistral-7b", "12.5", "70.0")["avg"] != s.q("8", "mistral-7b", "12.5", "70.0")["avg"]
    found.append(
        several(
            [
                near(46.23, min(averages)),
                near(46.92, max(averages)),
                *(a > s.full(*budgets[0][:2])["avg"] for a in averages),
                max(float(p[2]) * float(p[3]) for p in budgets) == 875,
                not any(elsewhere) and not differs,
            ]
        )
    )
    found.append(several([s.q(*p)[n] >= s.full(*p[:2])[n] for p in budgets for n in s.q(*p) if n != "avg"]))
    found.append("partly")  # retention: only where no sample is kept whole is it the product
    # figure 4
    matched = [(p, n) for p in qwen if p[2] == "12.5" for n in s.q(*p) if n != "avg"]
    found.append(several([s.q(*p)[n] >= s.full(*p[:2])[n] for p, n in matched]))
    # section 4.2
    groups: dict[tuple[str, ...], dict[str, dict[str, int]]] = {}
    for k, v in s.cells.items():
        if k[0] in ("4", "15"):
            groups.setdefault((k[0], k[1], k[3]), {})[k[7]] = v
    keeps, both = "ticks:2;inferred;sample:q3;token:q2", "ticks:4;sample:q1+q3;token:q2+q4"
    none, own = "ticks:2;inferred;sample:q1+q3;token:none", ITSELF[2]
    found.append(several([min(g, key=lambda name: g[name]["avg"]) == keeps for g in groups.values()]))
    found.append(several([g[own][n] > g[keeps][n] for g in groups.values() for n in ("gsm8k", "squad")]))
    worse = [g[own]["avg"] > g[both]["avg"] for g in groups.values()]
    found.append(several([sum(worse) > len(worse) / 2]))
    (pair,) = [g for g in groups.values() if none in g]
    found.append(several([pair[own][n] > pair[none][n] for n in pair[own]]))
    found.append(several([max(g, key=lambda name: g[name]["avg"]) == own for g in groups.values()]))
    # table 5, figure 7, section 4.3
    five = {k[6] + k[7]: v["avg"] for k, v in s.cells.items() if k[0] == "5"}
    found.append(several([five["q-tuninglambda:0.5"] > v for name, v in five.items() if name != "q-tuninglambda:0.5"]))
    shares = {(row["category"], row["part"]): float(row["share_percent"]) for row in figure7}
    pruned = ("boilerplate-templates", "markdown-formatting", "content-non-answer")
    found.append(
        several(
            [shares[name, "pruned"] > shares[name, "kept"] for name in pruned]
            + [shares[name, "pruned"] < shares[name, "kept"] for name in ("gold-answer-spans", "numbers-symbols")]
        )
    )
    minutes = [float(row["total_minutes"]) for row in efficiency]
    small_run = efficiency[0]
    product = float(small_run["sample_ratio"]) * float(small_run["token_ratio"])
    memory = float(small_run["peak_memory_percent"])
    found.append(several([0.275 <= 1 - minutes[0] / minutes[3] <= 0.285, product == 625, memory == 27]))
    selecting = [float(row["sample_selection_minutes"]) + float(row["token_selection_minutes"]) for row in efficiency]
    found.append(several([a < b / 2 for a, b in zip(selecting[:3], minutes, strict=False)]))
    # appendices: not one score of random + random is off the grid of a single run, which of five runs 4 of 5 would be
    random_cells = {
        (row["train_set"], *(row[name] for name in NAMES[1:5]), row["benchmark"], row["score"])
        for row in rows
        if row["sample_pruner"] == row["token_pruner"] == "random" and row["benchmark"] in ITEMS
    }
    found.append(several([any(not on_grid(round(float(cell[-1]) * 100), ITEMS[cell[-2]]) for cell in random_cells)]))
    at = [("10", "qwen3-8b", "12.5", "50.0"), ("10", "qwen3-8b", "25.0", "50.0"), ("11", "qwen3-8b", "25.0", "70.0")]
    qs = [s.q(*p)["avg"] for p in at]
    full, infobatch = s.full("10", "qwen3-8b")["avg"], s.sixteen(*at[1])["infobatch+random"]["avg"]
    found.append(
        several(
            [near(4.7, qs[0] - full, 2), near(3.9, qs[1] - infobatch, 2), near(3.75, qs[2] - full, 2)]
            + [near(claim, q) for claim, q in zip((60.19, 58.8, 59.2), qs, strict=True)]
        )
    )
    p = ("11", "qwen3-8b", "50.0", "50.0")
    found.append(several([near(3, s.q(*p)["avg"] - best(p), 2) and near(6, s.q(*p)["avg"] - weakest[p], 2)]))
    series = [[s.q(*p)["avg"] for p in sorted(qwen, key=lambda p: float(p[2])) if p[3] == t] for t in ("50.0", "70.0")]
    found.append(
        several([b > a for each in series for a, b in pairwise(each)] + [s.q(*p)["avg"] > best(p) for p in qwen])
    )
    # ten claims of the first version
    found += [gain38(), several(of48), several([near(36.5, s.q("8", "llama2-7b", "25.0", "50.0")["avg"])])]
    for claim, p in (
        (1.63, ("8", "mistral-7b", "25.0", "50.0")),
        (3.3, ("1", "llama2-7b", "12.5", "50.0")),
        (2.7, ("1", "mistral-7b", "12.5", "50.0")),
    ):
        found.append(several([near(claim, s.q(*p)["avg"] - best(p), 2)]))
    claims = {"llama3-8b": 21.5, "mistral-7b": 26.6, "smollm2-1.7b": 11.8}
    found.append(several([near(claim, s.q("12", name, "50.0", "70.0")["avg"]) for name, claim in claims.items()]))
    of_mistral = [v for k, v in s.cells.items() if k[0] in ("2", "12") and k[1] == "mistral-7b"]
    found.append(several([all(abs(v["avg"] * 2 - v["gsm8k"] - v["math"]) <= 2 for v in of_mistral)]))
    found.append(
        several(
            [
                any(v[name] != s.cells[("12", *k[1:4], "70.0", *k[5:])][name] for name in ("gsm8k", "math"))
                for k, v in s.cells.items()
                if k[0] == "2" and k[6] == "sparsevlm"
            ]
        )
    )
    return [*found, several(over_full)]


ITEMS = {"arc_easy": 567, "arc_challenge": 295, "gsm8k": 1319, "math": 5000}


def on_grid(value: int, items: int) -> bool:
    """Whether some count of right answers gives a score (in hundredths), rounded or cut off: by trying them all."""
    return any(abs(value - 10_000 * k / items) <= 0.5 or int(10_000 * k / items) == value for k in range(items + 1))


def wrong_deltas(rows: list[Line]) -> Counter[str]:
    """How many printed differences are exact, off by 0.01, of the wrong sign, or otherwise wrong."""
    base = {
        (*(row[name] for name in NAMES[:5]), row["benchmark"]): round(float(row["score"]) * 100)
        for row in rows
        if row["sample_pruner"] == row["token_pruner"] == "random"
    }
    counts: Counter[str] = Counter()
    for row in rows:
        if row["printed_delta"]:
            samples = "12.5" if row["table"] == "14" else row["sample_ratio"]
            tokens = "50.0" if row["table"] == "13" else row["token_ratio"]
            key: Any = (row["table"], row["model"], "pruned", samples, tokens, row["benchmark"])
            true, printed = round(float(row["score"]) * 100) - base[key], round(float(row["printed_delta"]) * 100)
            right, sign, near = printed == true, printed == -true, abs(printed - true) == 1
            counts["exact" if right else "sign" if sign else "rounding" if near else "size"] += 1
    return counts
