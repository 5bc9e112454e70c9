"""The scorer's head against full logits: time and peak memory over vocabulary and length."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import paths
from benchmarks.clock import alternate, seconds
from benchmarks.fresh import in_fresh_process, peak_above
from benchmarks.report import Checked, Table, Value
from benchmarks.shapes import Setting, ragged
from qtuning.model.flops import CHUNK
from qtuning.model.head import Head, token_statistics

TIME, MEMORY = 0.28, 0.10
RESPONSE = 0.41  # share of the positions
MIB = 2**20


def naive_statistics(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """NLL and entropy of every position through full logits, log_softmax and softmax."""
    logits = hidden @ weight.T
    log_p = logits.log_softmax(dim=-1)
    entropy = -(logits.softmax(dim=-1) * log_p).sum(dim=-1)
    return -log_p.gather(1, labels[:, None]).squeeze(1), entropy


def run(setting: Setting) -> list[Table]:
    """One shape, alternating, with the targets; and the grid."""
    return [_ragged_batch(setting), _grid(setting)]


@torch.no_grad()
def _ragged_batch(setting: Setting) -> Table:
    """The padded positions of a ragged batch against its response positions."""
    device, sizes = setting.device, setting.sizes
    hidden_size, vocabulary = sizes.model.hidden, sizes.scorer_vocabulary
    batch = paths.padded(ragged(8, vocabulary, sizes.stretch), device)
    positions, response = batch.response.numel(), int(batch.response.sum())
    hidden, weight, labels = _inputs(hidden_size, vocabulary, positions, device)
    variants: dict[str, Callable[[], object]] = {
        "naive": lambda: naive_statistics(hidden, weight, labels),
        "gemm": lambda: _products(hidden[:response], weight),
        "ours": lambda: token_statistics(hidden[:response], Head(weight), labels[:response]),
    }
    times = alternate(variants, sizes.fewer, device)
    arguments = (hidden_size, vocabulary, positions, response, str(device))
    peaks = {name: in_fresh_process(measure, name, *arguments)[0] for name in ("naive", "ours")}
    rows: list[dict[str, Value]] = [
        {
            "head": "naive: full logits, log_softmax, softmax",
            "ms": times.milliseconds("naive"),
            "time / naive": 1.0,
            "peak MiB": peaks["naive"] / MIB,
            "peak / naive": 1.0,
        },
        {
            "head": f"products alone, {CHUNK} response positions at a time",
            "ms": times.milliseconds("gemm"),
            "time / naive": times.ratio("gemm", "naive"),
        },
        {
            "head": f"ours, {CHUNK} response positions at a time",
            "ms": times.milliseconds("ours"),
            "time / naive": Checked(times.ratio("ours", "naive"), TIME),
            "peak MiB": peaks["ours"] / MIB,
            "peak / naive": Checked(peaks["ours"] / peaks["naive"], MEMORY),
        },
    ]
    of = f"{response} response of {positions} padded positions"
    note = f"hidden {hidden_size}, vocabulary {vocabulary:,}; {of}; median of {sizes.fewer}."
    return Table("Scoring head, ragged batch, float32", rows, (note,))


def _grid(setting: Setting) -> Table:
    device, sizes = setting.device, setting.sizes
    rows: list[dict[str, Value]] = []
    skipped = 0
    for vocabulary in sizes.vocabularies:
        for length in sizes.lengths:
            response = round(RESPONSE * length)
            arguments = (sizes.model.hidden, vocabulary, length, response, str(device))
            peak, spent = in_fresh_process(measure, "ours", *arguments)
            row: dict[str, Value] = {
                "vocabulary x length": f"{vocabulary:,} x {length:,}",
                "ours ms": 1000 * spent,
                "naive ms": None,
                "time / naive": None,
                "ours MiB": peak / MIB,
                "naive MiB": None,
                "peak / naive": None,
                "ours / one chunk of logits": peak / (4 * vocabulary * min(CHUNK, response)),
            }
            if vocabulary * length <= sizes.logits:
                naive_peak, naive_spent = in_fresh_process(measure, "naive", *arguments)
                row |= {
                    "naive ms": 1000 * naive_spent,
                    "time / naive": spent / naive_spent,
                    "naive MiB": naive_peak / MIB,
                    "peak / naive": peak / naive_peak,
                }
            else:
                skipped += 1
            rows.append(row)
    return Table(
        "Scoring head over vocabulary and length, float32",
        rows,
        (
            f"hidden {sizes.model.hidden}; {RESPONSE:.0%} of the positions are response, which is all that ours looks "
            "at; each row's figures are those of one run in a fresh process.",
            f"naive is left out where its logits alone would pass {4 * sizes.logits / MIB:,.0f} MiB ({skipped} "
            "points). In a process that has just begun a few MiB of code and buffers count as well.",
        ),
    )


@torch.no_grad()
def measure(
    variant: str, hidden_size: int, vocabulary: int, positions: int, response: int, device: str
) -> tuple[int, float]:
    """(peak bytes above what was there, seconds) of `naive` on all positions or `ours` on the response positions."""
    torch.set_num_threads(1)
    where = torch.device(device)
    hidden, weight, labels = _inputs(hidden_size, vocabulary, positions, where)

    def action() -> object:
        if variant == "naive":
            return naive_statistics(hidden, weight, labels)
        return token_statistics(hidden[:response], Head(weight), labels[:response])

    naive_statistics(hidden[:2], weight[:64], labels[:2] % 64)  # the code of the kernels is in memory from here on
    token_statistics(hidden[:2], Head(weight[:64]), labels[:2] % 64)
    spent: list[float] = []
    peak = peak_above(lambda: spent.append(seconds(action, where)), where)
    return peak, spent[0]


def _inputs(hidden_size: int, vocabulary: int, positions: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, hidden_size, device=device).mul_(hidden_size**-0.5)
    hidden = torch.randn(positions, hidden_size, device=device)
    return hidden, weight, torch.randint(vocabulary, (positions,), device=device)


def _products(hidden: Tensor, weight: Tensor) -> None:
    for part in hidden.split(CHUNK):
        part @ weight.T
