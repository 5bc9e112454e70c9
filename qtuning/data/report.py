"""What is told about a prepared train set: counts, token statistics, fingerprints; as JSON and on the screen."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qtuning.data.rows import Example
from qtuning.data.sources import locate
from qtuning.data.tokenise import Tokenised
from qtuning.experiment.schema import HubSource, TrainSet
from qtuning.files import canonical_json, file_digest

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase


def statistics(used: Sequence[tuple[Example, Tokenised]]) -> dict[str, Any]:
    """Counts, token statistics and the content digest of the rows that will be trained on."""
    contents = [_content(example) for example, _ in used]
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content.encode() + b"\n")
    prompts = [tokenised.prompt for _, tokenised in used]
    return {
        "used": len(used),
        "prompt_tokens": distribution(prompts),
        "response_tokens": distribution([len(tokenised.tokens) - tokenised.prompt for _, tokenised in used]),
        "truncated_responses": sum(tokenised.truncated for _, tokenised in used),
        "exact_duplicates": len(contents) - len(set(contents)),
        "data_fingerprint": digest.hexdigest(),
    }


def _content(example: Example) -> str:
    """Prompt and response alone: neither id nor kind, nor how the file spelled them."""
    turns = [[message.role, message.content] for message in example.prompt]
    return canonical_json({"prompt": turns, "input": example.input, "response": example.response})


def distribution(values: Sequence[int]) -> dict[str, float]:
    """min, median, 95th percentile (both interpolated), max and total."""
    array = np.asarray(values, dtype=np.int64)
    return {
        "min": int(array.min()),
        "median": float(np.median(array)),
        "p95": float(np.percentile(array, 95)),
        "max": int(array.max()),
        "total": int(array.sum()),
    }


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """SHA-256 over what decides how a text becomes tokens: the tokenizer itself, its end token and chat template."""
    parts = [tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token, tokenizer.chat_template]
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def describe_source(train_set: TrainSet, data_dir: Path | None) -> dict[str, Any]:
    """The source as configured, and the SHA-256 of the file (a hub data set is pinned by its revision)."""
    source = train_set.source.model_dump(mode="json")
    if isinstance(train_set.source, HubSource):
        return source
    path = locate(train_set.source, data_dir=data_dir)
    return source | {"path": str(path), "sha256": file_digest(path)}


def summarise(report: dict[str, Any], console: "Console") -> None:
    """The report on one screen."""
    from rich.table import Table

    table = Table(
        title=f"{report['train_set']} for {report['model']} ({report['template']} template)", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows read", f"{report['read']:,}")
    for reason, count in report["bad_by_reason"].items():
        table.add_row(f"  unusable: {reason}", f"{count:,}")
    table.add_row("samples used", f"{report['used']:,}")
    table.add_row("  of them exact duplicates", f"{report['exact_duplicates']:,}")
    table.add_row(f"  of them cut at {report['cutoff']:,} tokens", f"{report['truncated_responses']:,}")
    for part in ("prompt", "response"):
        numbers = report[f"{part}_tokens"]
        spread = " / ".join(f"{numbers[key]:,.0f}" for key in ("min", "median", "p95", "max"))
        table.add_row(f"{part} tokens (min / median / p95 / max)", spread)
        table.add_row(f"{part} tokens in all", f"{numbers['total']:,}")
    console.print(table)
