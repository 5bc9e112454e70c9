"""Samples and decisions -> one HTML page that needs no other file and no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qtuning.data.kinds import KINDS as TOKEN_KINDS
from qtuning.embed import render
from qtuning.experiment.quadrants import QUADRANTS
from qtuning.experiment.truth import KINDS
from qtuning.explore.blocks import array_block, encoded, text_block
from qtuning.explore.columns import Arrays, Decisions, arrays_of
from qtuning.explore.samples import Shown
from qtuning.files import write_text
from qtuning.train.token_scores import SCALE, UNKNOWN

LIBRARIES = ("echarts/echarts.common.min.js",)
SCRIPTS = tuple(f"explore/{name}.js" for name in ("data", "state", "plane", "list", "sample", "main"))
CHUNK = 50  # samples whose texts are unpacked together, when one of them is looked at


def write_page(
    out: Path, title: str, subject: str, samples: Sequence[Shown], lines: Sequence[Decisions], notes: Sequence[str] = ()
) -> Path:
    """Write the page to `out`. subject: model and train set, in words. notes: on the whole page."""
    kinds = {sample.number: sample.kinds for sample in samples}
    columns: Arrays = {
        "number": np.array([sample.number for sample in samples], dtype=np.uint32),
        "tokens": np.array([len(sample.pieces) for sample in samples], dtype=np.uint32),
        "prompt_tokens": np.array([sample.prompt_tokens for sample in samples], dtype=np.uint32),
    }
    for index, line in enumerate(lines):
        columns |= {f"{index}.{name}": array for name, array in arrays_of(line, kinds).items()}
    listed = list(dict.fromkeys([*(k for k in KINDS if any(s.kind == k for s in samples)), *_others(samples)]))
    meta = {
        "title": title,
        "lines": [
            {
                "label": line.label,
                "cell": line.cell,
                "notes": line.notes,
                "smoothing": line.smoothing,
                "updates": line.updates,
                "epochs": line.epochs,
            }
            for line in lines
        ],
        "beside": _beside(lines),
        "kinds": listed,
        "kind": [listed.index(sample.kind) if sample.kind in listed else -1 for sample in samples],
        "excerpts": [sample.excerpt for sample in samples],
        "tokenKinds": TOKEN_KINDS,
        "quadrants": {each.number: f"{each.sides}: {each.meaning}" for each in QUADRANTS["figure"]},
        "chunk": CHUNK,
        "scale": SCALE,
        "unknown": UNKNOWN,
    }
    blocks = {"meta": text_block(meta), "columns": array_block(columns)}
    tables = [_token_rows(line, len(samples)) for line in lines]
    for start in range(0, len(samples), CHUNK):
        part = range(start, min(start + CHUNK, len(samples)))
        blocks[f"texts-{start // CHUNK}"] = text_block(
            [_text(samples[place]) | {"lines": [table[place] for table in tables]} for place in part]
        )
    page = render(
        "explore/page.html",
        ["explore/explore.css"],
        LIBRARIES,
        SCRIPTS,
        title=title,
        subject=subject,
        notes=notes,
        blocks=blocks,
    )
    write_text(out, page)
    return out


def _beside(lines: Sequence[Decisions]) -> int:
    """The line that stands beside the first one at first: another method at its budget, else any; -1 for none."""
    rivals = [index for index, line in enumerate(lines) if index and line.method != lines[0].method]
    alike = [index for index in rivals if lines[index].budget == lines[0].budget]
    return next(iter([*alike, *rivals, *range(1, len(lines))]), -1)


MOST_KINDS = 12  # kinds that are no planted ones; a train set may name a thousand


def _others(samples: Sequence[Shown]) -> list[str]:
    """The kinds that rows name and that are none of the planted ones, if there are few."""
    names = sorted({sample.kind for sample in samples if sample.kind is not None and sample.kind not in KINDS})
    return names if len(names) <= MOST_KINDS else []


def _text(sample: Shown) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt": sample.prompt,
        "pieces": sample.pieces,
        "rest": sample.rest,
        "kinds": sample.kinds.tolist(),
        "wrong": sample.wrong,
    }


def _token_rows(line: Decisions, samples: int) -> list[list[list[str | None]]]:
    """For each sample, for each decision: mask, NLL and entropy of its tokens, null where they are not known."""
    found: list[list[list[str | None]]] = [[] for _ in range(samples)]
    for place, *values in line.table.select("place", "mask", "token_nll", "token_entropy").iter_rows():
        found[place].append([encoded(value) for value in values])
    return found
