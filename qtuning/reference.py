"""Token losses under a reference model (Rho-1), computed once a start of training: the reference does not learn."""

import time
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from qtuning.batch import Sample
from qtuning.config import Cell
from qtuning.cost import Cost, shape_of
from qtuning.data.report import tokenizer_fingerprint
from qtuning.errors import UserError
from qtuning.files import read_json
from qtuning.models import load_model, load_tokenizer, resolve
from qtuning.packed_model import PackedModel, check_decomposition
from qtuning.scores import NonFinite, observe
from qtuning.survey import share_out


def reference_nll(
    folder: Path, samples_folder: Path, samples: Sequence[Sample], accelerator: Accelerator, cell: Cell
) -> tuple[list[Tensor], Cost]:
    """([|T_i|] token NLL of each sample, cost of this process) under the model made ready in `folder`.

    The processes share the work. UserError if its tokenizer is not the one that the samples were tokenised with.
    """
    assert cell.training is not None and cell.pruning is not None and cell.pruning.reference is not None
    name = cell.pruning.reference.name
    if tokenizer_fingerprint(load_tokenizer(resolve(folder))) != read_json(samples_folder / "report.json").get(
        "tokenizer_fingerprint"
    ):
        raise UserError(
            f"options.reference = {name!r}: has another tokenizer than {cell.model.name}; choose one of its family"
        )
    started, cost = time.perf_counter(), Cost()
    language_model = load_model(resolve(folder), cell.dtype)
    model = PackedModel(language_model).to(accelerator.device)
    check_decomposition(model, samples[:64], accelerator.device)
    shape = shape_of(language_model, frozen=True, checkpointing=False)
    size = cell.training.batch_size

    def losses(batch: Sequence[Sample]) -> list[Tensor]:
        try:
            with accelerator.autocast():
                observed = observe(model, batch, {"scores"}, None, accelerator.device)
        except NonFinite as error:
            raise UserError(f"options.reference = {name!r}: {error}") from None
        assert observed.scores is not None
        cost.samples_scored += len(batch)
        cost.tokens_scored += observed.packed.tokens
        cost.flops_scoring += shape.forward_flops(observed.packed)
        return list(observed.scores.nll.split(observed.scores.lengths.tolist()))

    parts = share_out(accelerator, [samples[start : start + size] for start in range(0, len(samples), size)], losses)
    cost.seconds_scoring = time.perf_counter() - started
    return [nll for batch in parts for nll in batch], cost
