"""Models beside the one that is trained: a reference (Rho-1), a proxy that scores in its place. They do not learn, so
each scores the train set once, when training starts."""

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from accelerate import Accelerator

from qtuning.data.report import tokenizer_fingerprint
from qtuning.data.samples import Sample
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.schema import Cell, Scoring
from qtuning.files import read_json
from qtuning.model.load import load_model, model_path
from qtuning.model.packed import PackedModel, check_packed_forward
from qtuning.scoring.scores import SCORES, BatchScores, NonFinite
from qtuning.train.cost import Cost, shape_of
from qtuning.train.survey import Surveyor, TrainSet


def scores_under(
    role: str,
    folder: Path | None,
    samples_folder: Path,
    samples: Sequence[Sample],
    needs: Collection[str],
    accelerator: Accelerator,
    cell: Cell,
) -> tuple[BatchScores, Cost]:
    """(scores of all samples, cost of this process) under the cell's `reference` or `proxy`, made ready in `folder`.

    needs: only its scores are made. The processes share the work; a proxy scores in the precision and by the head that
    `scoring` names. UserError if the folder is not given, or if the model's tokenizer is not the one that the samples
    were tokenised with.
    """
    assert cell.training is not None and cell.pruning is not None
    name = getattr(cell.pruning, role).name
    if folder is None:
        raise UserError(f"--{role}: required: the folder of the model {name} that the cell names")
    path, report = model_path(folder), read_json(samples_folder / "report.json")
    if tokenizer_fingerprint(load_tokenizer(path)) != report.get("tokenizer_fingerprint"):
        raise UserError(
            f"options.{role} = {name!r}: has another tokenizer than {cell.model.name}; choose one of its family"
        )
    started, cost = time.perf_counter(), Cost()
    language_model = load_model(path, cell.dtype)
    model = PackedModel(language_model).to(accelerator.device)
    check_packed_forward(model, samples[:64], accelerator.device)
    shape = shape_of(language_model, frozen=True, checkpointing=False)
    # how a method's batches are scored says nothing of a reference
    scoring = cell.pruning.scoring if role == "proxy" else Scoring()
    size, epochs = cell.training.batch_size, cell.training.epochs
    surveyor = Surveyor(TrainSet(samples), accelerator, model, shape, cost, size, epochs, None, scoring)
    try:
        scores = surveyor.whole_train_set(SCORES & set(needs), 0).scores
    except NonFinite as error:
        raise UserError(f"options.{role} = {name!r}: {error}") from None
    assert scores is not None
    cost.seconds_scoring = time.perf_counter() - started
    return scores, cost
