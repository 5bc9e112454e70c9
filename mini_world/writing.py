"""Write the mini world: pretraining corpus, fine-tuning set, benchmarks and manifest."""

import gzip
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from mini_world.benchmarks import benchmarks
from mini_world.corpus import corpus
from mini_world.facts import build_world
from mini_world.planted import planted_samples
from mini_world.ratings import rate
from mini_world.sft import DRAWS, SftSample, Topic, sft_samples
from qtuning.files import atomic_path, write_json

GENERATOR_VERSION = 5
"""Raised whenever the same seed gives other bytes."""
SEED = 2509
"""The seed of the world that the shipped base model was pretrained on."""
CORPUS = "pretrain/train"
"""The one file that only pretraining needs. The package ships all others."""


def generate(out_dir: Path, seed: int = SEED, *, with_corpus: bool = True) -> None:
    """Write the world of `seed` below `out_dir`: the same bytes every time.

    Files: `pretrain/train`; for each draw D of the noise `sft/train_D` and its parts `sft/facts_D`, `sft/sums_D`,
    `sft/reading_D`; `sft/planted`; ratings of each of these sets, `sft/SET_ratings`; and the splits of seven benchmarks
    (`.jsonl.gz`).
    Last of all comes `manifest.json` (seed, generator version, record counts, SHA-256 of every file and of the whole).

    Without the corpus, the large file `pretrain/train` is not written. The manifest describes it all the same.
    """
    world = build_world(seed)
    suite = benchmarks(world, seed)
    sets: dict[str, list[SftSample]] = {}
    for draw in range(DRAWS):
        samples = sft_samples(world, suite, seed, draw)
        sets[f"train_{draw}"] = samples
        for topic in get_args(Topic):
            sets[f"{topic}_{draw}"] = [sample for sample in samples if sample.topic == topic]
    sets["planted"] = planted_samples(sets["train_0"], seed)
    tables: dict[str, list[dict[str, Any]]] = {CORPUS: [{"text": text} for text in corpus(world, seed, suite.held_out)]}
    for part, samples in sets.items():
        ids = [_id(sample) for sample in samples]
        tables[f"sft/{part}"] = [{"id": name} | asdict(sample) for name, sample in zip(ids, samples, strict=True)]
        tables[f"sft/{part}_ratings"] = rate(ids, samples, part, seed)
    for name, splits in suite.records.items():
        tables.update({f"{name}/{split}": items for split, items in splits.items()})

    (out_dir / "manifest.json").unlink(missing_ok=True)
    files = {}
    for name, rows in sorted(tables.items()):
        # Digests are of the uncompressed text: compressed bytes depend on the build of zlib.
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        files[f"{name}.jsonl.gz"] = {"records": len(rows), "sha256": hashlib.sha256(text).hexdigest()}
        if with_corpus or name != CORPUS:
            _write(out_dir / f"{name}.jsonl.gz", text)
    manifest = {
        "seed": seed,
        "generator_version": GENERATOR_VERSION,
        "files": files,
        "sft_kinds": dict(sorted(Counter(sample.kind for sample in sets["train_0"]).items())),
        "sha256": world_digest(files),
    }
    write_json(out_dir / "manifest.json", manifest)


def world_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One digest for all files: SHA-256 over the sorted lines `name digest`."""
    lines = "".join(f"{name} {entry['sha256']}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _id(sample: SftSample) -> str:
    """The same for the same sample in every file."""
    text = "\n".join((sample.instruction, sample.input, sample.output))
    return f"{sample.kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _write(path: Path, text: bytes) -> None:
    """Write `text` gzip-compressed, without time stamp and file name."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="", compresslevel=6) as handle:
        handle.write(text)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
