"""The texts of a prepared train set, read again from its source: tokens alone cannot be read by people."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from qtuning.data.prepare import BATCH, plant_candidates, read_candidates
from qtuning.data.samples import StoredSamples
from qtuning.data.sources import read_rows
from qtuning.data.templates import render
from qtuning.data.tokenise import load_tokenizer, response_spans
from qtuning.data.write_samples import instruction
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell


@dataclass(frozen=True)
class Text:
    """A sample as the model meets it.

    prompt, response: as the template writes them. spans: for each response token before the cutoff, the characters
    (start, stop) of the response that it holds. instruction: the last turn of the user. id, kind: as its row gives
    them.
    """

    instruction: str
    prompt: str
    response: str
    spans: list[tuple[int, int]]
    id: str | None
    kind: str | None


def read_texts(
    cell: Cell,
    model_folder: Path,
    stored: StoredSamples,
    numbers: Collection[int],
    data_dir: Path | None = None,
    hub: Path | None = None,
) -> dict[int, Text]:
    """Number of a sample -> its texts. stored: what preparation made of the train set of `cell`.

    model_folder: holds the tokenizer. UserError where the source is gone or its rows are not those that were prepared.
    """
    assert cell.train_set is not None and cell.training is not None
    tokenizer, template = load_tokenizer(model_folder), cell.model.template
    places_of = {number: place for place, number in enumerate(stored.samples.numbers.tolist())}
    # flaws are made of other samples
    needed = numbers if cell.train_set.planted is None else places_of.keys()
    rows = read_rows(cell.train_set, data_dir=data_dir, hub=hub)
    used = plant_candidates(list(read_candidates(rows, cell.train_set, needed)), cell.train_set)
    wanted = [candidate for candidate in used if candidate.sample in numbers]
    found: dict[int, Text] = {}
    for start in range(0, len(wanted), BATCH):
        part = wanted[start : start + BATCH]
        texts = [render(candidate.example, template, tokenizer) for candidate in part]
        spans = response_spans(texts, tokenizer, template)
        for candidate, (prompt, response), places in zip(part, texts, spans, strict=True):
            sample = stored.samples[places_of[candidate.sample]]
            # the cutoff takes the end of a long response
            length = min(len(places), cell.training.cutoff - sample.prompt)
            if length != sample.response_length:
                raise UserError(
                    f"train set {cell.train_set.name}: row {sample.number} is not the one that was prepared; delete "
                    "its folder below results/train_sets and run the experiment again"
                )
            example = candidate.example
            asked = instruction(example)
            found[sample.number] = Text(asked, prompt, response, places[:length], example.id, example.kind)
    if missing := set(numbers) - found.keys():
        raise UserError(f"train set {cell.train_set.name}: row {min(missing)}, which was trained, is not in its source")
    return found
