"""What a pruner may know of samples: scores and attention from forwards without gradient, losses of earlier updates."""

import copy
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from qtuning.data.samples import Sample, StoredSamples, read_report
from qtuning.data.tokenise import load_tokenizer, tokenizer_fingerprint
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Scoring
from qtuning.experiment.needs import FORWARDS, SCORES
from qtuning.model.batch import Packed, pack
from qtuning.model.flops import Positions
from qtuning.model.load import adapt_under_autocast, load_model, load_tuned, model_path, verified_model
from qtuning.model.out_of_memory import telling
from qtuning.model.packed import PackedModel, check_packed_forward, half_weights
from qtuning.progress import Reporter
from qtuning.pruners.base import Candidates, Instructions, Ratings
from qtuning.pruners.method import concatenate
from qtuning.scoring.scores import BatchScores, NonFinite, Observation, embed, observe
from qtuning.train.cost import Cost, shape_of
from qtuning.train.exchange import gather_objects
from qtuning.train.parts import Parts, size_of
from qtuning.train.remembered import Remembered
from qtuning.train.replay import Recording
from qtuning.train.reuse import Graphs, observe_with_graphs
from qtuning.train.sharding import is_sharded

CHECKED = 64  # samples among which the shortest and the longest check that the packed forward is the model's own


@dataclass(frozen=True)
class CellSamples:
    """The samples of a cell, and what is known of each beyond its tokens.

    instructions, ratings: of all samples, or None. reference: per sample, [|T_i|] token NLL under the reference model,
    or None. token_influence: per sample, [|T_i|] places of its tokens (references.py), or None. influence: [n, G] on
    each of G groups of target examples (influence.py), or None. kinds: [n] int64, or None; wrong: per sample, [|T_i|]
    bool, or None (pruners/base.py, Candidates). recording: of the training that is replayed, or None.
    """

    samples: Sequence[Sample]
    instructions: Instructions | None = None
    reference: Sequence[Tensor] | None = None
    token_influence: Sequence[Tensor] | None = None
    ratings: Ratings | None = None
    influence: Tensor | None = None
    kinds: Tensor | None = None
    wrong: Sequence[Tensor] | None = None
    recording: Recording | None = None

    @classmethod
    def of(cls, stored: StoredSamples, positions: Tensor | None = None) -> "CellSamples":
        """What preparation stored, of all samples or of those at `positions`."""
        chosen = torch.arange(len(stored)) if positions is None else positions
        texts = Instructions(
            torch.as_tensor(stored.instruction_characters)[chosen], torch.as_tensor(stored.instruction_entropy)[chosen]
        )
        columns: dict[str, Any] = {name: torch.as_tensor(column)[chosen] for name, column in stored.ratings.items()}
        samples = stored.samples if positions is None else stored.samples.at(positions.numpy())
        wrong = None
        if stored.errors is not None:
            errors = stored.errors
            wrong = [_marked(stored.samples[position], errors[position]) for position in chosen.tolist()]
        return cls(
            samples,
            texts,
            ratings=Ratings(**columns) if columns else None,
            kinds=None if stored.kinds is None else torch.as_tensor(stored.kinds)[chosen],
            wrong=wrong,
        )


def _marked(sample: Sample, places: Sequence[int]) -> Tensor:
    """[|T_i|] bool: the response tokens of a sample at these places in its tokens."""
    mask = torch.zeros(len(sample.tokens), dtype=torch.bool)
    mask[list(places)] = True
    return mask[sample.prompt :]


@dataclass
class CandidateSource:
    """Makes the candidates that a pruner chooses from, and accounts for what that costs.

    scoring: when and how precisely batches are scored. table: scores of the whole train set, under the schedules that
    do not score each batch (`stale`, `proxy`). A batch that does not fit into memory is scored in parts. losses: [n]
    float64, mean token NLL of each sample in the update it was last part of, under the weights of that update; NaN
    before. remembered: scores one epoch ago, for pruners that need them. Table, losses and remembered scores are part
    of the resume state. reporter: told how far the scoring of the whole train set is.
    """

    train_set: CellSamples
    accelerator: Accelerator
    model: PackedModel
    cost: Cost
    batch_size: int
    epochs: int = 1
    layer: int | None = None
    scoring: Scoring = field(default_factory=Scoring)
    table: BatchScores | None = None
    reporter: Reporter | None = None
    remembered: Remembered | None = None
    losses: Tensor = field(init=False)
    _half: Mapping[str, Tensor] | None = field(default=None, init=False)
    _forwards: int = field(default=0, init=False)
    _parts: Parts = field(default_factory=Parts, init=False)

    def __post_init__(self) -> None:
        self.losses = torch.full((len(self.train_set.samples),), torch.nan, dtype=torch.float64)
        self._shape = shape_of(self.model.model, frozen=True, checkpointing=False)
        self._sharded = is_sharded(self.model)

    def candidates(
        self, positions: Sequence[int], needs: Collection[str], epoch: int, with_graphs: bool = False
    ) -> tuple[Candidates, Graphs | None]:
        """The samples at `positions`, with what `needs` asks for; and if wanted, the graphs of their forward.

        Call it with the weights at rest. Raises NonFinite.
        """
        samples = [self.train_set.samples[position] for position in positions]
        chosen = torch.tensor(positions)
        tabled = None if self.table is None else self.table.of(positions)
        observed, graphs = self._observe(samples, set(needs) - (SCORES if tabled else set()), with_graphs)
        texts, ratings, influence = self.train_set.instructions, self.train_set.ratings, self.train_set.influence
        kinds, recording, remembered = self.train_set.kinds, self.train_set.recording, self.remembered
        lengths = torch.tensor([sample.response_length for sample in samples])
        by_token = {"reference": self.train_set.reference, "token-influence": self.train_set.token_influence}
        by_token["truth"] = self.train_set.wrong
        reference, token_influence, wrong = (
            torch.cat([known[position] for position in positions]) if known is not None and need in needs else None
            for need, known in by_token.items()
        )
        if texts is not None:
            texts = Instructions(texts.characters[chosen], texts.entropy[chosen])
        candidates = Candidates(
            numbers=torch.tensor([sample.number for sample in samples]),
            lengths=lengths,
            prompts=torch.tensor([sample.prompt for sample in samples]),
            scores=tabled or (None if observed is None else observed.scores),
            attention=None if observed is None else observed.attention,
            reference=reference,
            token_influence=token_influence,
            losses=self.losses[chosen] if "losses" in needs else None,
            previous=remembered.previous.of(chosen) if remembered is not None and "previous-scores" in needs else None,
            instructions=texts if "instructions" in needs else None,
            ratings=ratings.of(chosen) if ratings is not None and "ratings" in needs else None,
            embeddings=self._embed(samples) if "embeddings" in needs else None,
            influence=influence[chosen] if influence is not None and "influence" in needs else None,
            kinds=kinds[chosen] if kinds is not None and "truth" in needs else None,
            wrong=wrong,
            recorded=recording.of(epoch, chosen, lengths) if recording is not None and "trace" in needs else None,
            epoch=epoch,
            epochs=self.epochs,
        )
        return candidates, graphs

    def whole_train_set(
        self, needs: Collection[str], epoch: int, progress: Callable[[int, int], None] | None = None
    ) -> Candidates:
        """All samples as candidates; the processes share the forwards that this takes.

        progress: called after each forward with (samples done, samples in all).
        """
        count = len(self.train_set.samples)
        if not FORWARDS & set(needs):
            return self.candidates(range(count), needs, epoch)[0]
        batches = [range(start, min(start + self.batch_size, count)) for start in range(0, count, self.batch_size)]
        done: list[tuple[int, Any]] = []
        reporter = self.reporter
        told = nullcontext() if reporter is None else reporter.doing("scoring sample", count)
        try:
            with self.scoring_together(len(batches), needs), told:
                for index in range(self.accelerator.process_index, len(batches), self.accelerator.num_processes):
                    done.append((index, self.candidates(batches[index], needs, epoch)[0]))
                    if progress is not None:
                        progress(batches[index].stop, count)
                    if reporter is not None:
                        reporter.at(batches[index].stop, count)
        except UserError as error:
            done = [(-1, error)]  # raised on all processes below; the others would wait for this one for ever
        everyone = sorted(gather_objects(done), key=lambda pair: pair[0])
        raise_first([result for _, result in everyone if isinstance(result, UserError)])
        return concatenate([result for _, result in everyone])

    def note_update(self, positions: Sequence[int], columns: Mapping[str, Sequence[Any]], current: bool) -> None:
        """Note each sample's mean NLL in this update, for pruners that ask for losses (InfoBatch), and its scores.

        columns: of the trace (journal.TRACE_SCHEMA), a row a sample. current: the update (or its pool) scored them by
        the weights that learn; the loss is then the mean over the whole response, else over the trained tokens. Scores
        of a table or of an epoch's draw come from other or older weights.
        """
        for position, ppl, loss in zip(positions, columns["ppl"], columns["loss"], strict=True):
            known = math.log(ppl) if ppl is not None and current else loss
            if known is not None:
                self.losses[position] = known
        if self.remembered is not None and not self.remembered.by_draw:
            self.remembered.note(positions, columns["ppl"], columns["entropy"])

    def end_epoch(self) -> None:
        """The scores of this epoch are those of one epoch ago from here on."""
        if self.remembered is not None:
            self.remembered.end_epoch()

    def exact(self) -> "CandidateSource":
        """A source of exact scores under the current weights, at no cost: to see what an approximation changes."""
        source = copy.copy(self)
        source.cost, source.scoring, source.table = Cost(), Scoring(), None
        return source

    @contextmanager
    def scoring_together(self, batches: int, needs: Collection[str], with_graphs: bool = False) -> Iterator[None]:
        """While the processes share `batches` batches that need `needs`, and the model does not learn.

        Scoring in bfloat16 copies the weights once and frees the copies afterwards. They take 2 bytes a weight of the
        linear layers, at a time when no gradients are held.

        Under FSDP every forward is a collective. A process that has fewer batches, or that met an error, makes idle
        forwards until it has made as many as the others.
        """
        begun = self._forwards
        try:
            yield
        finally:
            self._half = None
            if self._sharded and not with_graphs:
                asked = FORWARDS & set(needs) - (SCORES if self.table is not None else set())
                each = bool(asked - {"embeddings"}) + ("embeddings" in asked)
                most = -(-batches // self.accelerator.num_processes)
                for _ in range(each * most - (self._forwards - begun)):
                    self.model.score(idle_batch(self.train_set.samples).to(self.accelerator.device))

    def tensors(self) -> dict[str, Tensor]:
        """The resume state."""
        found = {"pruner.losses": self.losses} | (self.remembered.tensors() if self.remembered is not None else {})
        if self.table is not None and self.scoring.schedule == "stale":
            # scores come from float32 statistics, so float32 holds them exactly
            found |= {"pruner.table_nll": self.table.nll.float(), "pruner.table_entropy": self.table.entropy.float()}
            if self.table.sequence_ent is not None:
                found["pruner.table_sequence_ent"] = self.table.sequence_ent
        return found

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from the resume state that `tensors()` gave."""
        self.losses = tensors["pruner.losses"]
        if self.remembered is not None:
            self.remembered.restore(tensors)
        if "pruner.table_nll" in tensors:
            lengths = torch.tensor([sample.response_length for sample in self.train_set.samples])
            nll, entropy = tensors["pruner.table_nll"].double(), tensors["pruner.table_entropy"].double()
            self.table = BatchScores(nll, entropy, lengths, tensors.get("pruner.table_sequence_ent"))

    def _observe(
        self, samples: Sequence[Sample], needs: Collection[str], with_graphs: bool
    ) -> tuple[Observation | None, Graphs | None]:
        if not FORWARDS & set(needs) - {"embeddings"}:
            return None, None
        if not (with_graphs or self._sharded):
            found = self._parts.each(samples, lambda part: self._forward(part, needs, False)[0])
            return found[0] if len(found) == 1 else concatenate(found), None
        # samples whose graphs are kept are held together anyway, and a process of FSDP forwards as often as the others
        helps = "options.scoring.schedule: fresh needs less" if with_graphs else "lower training.batch_size"
        with telling("scoring", size_of(samples), helps):
            return self._forward(samples, needs, with_graphs)

    def _forward(
        self, samples: Sequence[Sample], needs: Collection[str], with_graphs: bool
    ) -> tuple[Observation, Graphs | None]:
        device, impl, graphs = self.accelerator.device, self.scoring.impl, None
        half = self.scoring.precision == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if half else self.accelerator.autocast():
            if with_graphs:
                observed, graphs = observe_with_graphs(self.model, samples, needs, device, impl)
            else:
                # bfloat16 copies of the weights, where autocast would make them anew in every forward; not of slices
                autocast = torch.is_autocast_enabled(device.type)
                if autocast and torch.get_autocast_dtype(device.type) == torch.bfloat16 and not self._sharded:
                    self._half = self._half or half_weights(self.model)
                self._forwards += 1
                observed = observe(self.model, samples, needs, self.layer, device, self._half, impl)
        self.cost.samples_scored += len(samples)
        self.cost.tokens_scored += observed.packed.tokens
        self.cost.flops_scoring += self._shape.forward_flops(observed.packed.positions, observed.depth)
        return observed, graphs

    def _embed(self, samples: Sequence[Sample]) -> Tensor:
        """The need `embeddings`, by a forward of its own that ends before the head."""
        if self._sharded:
            with telling("scoring", size_of(samples), "lower training.batch_size"):
                return self._embed_part(samples)
        return torch.cat(self._parts.each(samples, self._embed_part))

    def _embed_part(self, samples: Sequence[Sample]) -> Tensor:
        self._forwards += 1
        with self.accelerator.autocast():
            embeddings, packed = embed(self.model, samples, self.accelerator.device)
        self.cost.samples_scored += len(samples)
        self.cost.tokens_scored += packed.tokens
        self.cost.flops_scoring += self._shape.forward_flops(Positions.of(packed.lengths, 0))
        return embeddings


def idle_batch(samples: Sequence[Sample]) -> Packed:
    """The smallest batch: one prediction, of weight 0. For a process that has none where all must take part."""
    packed = pack([Sample(samples[0].number, samples[0].tokens[:2], 1)], weights=[0.0])
    assert packed is not None
    return packed


def load_for_scoring(
    path: Path, dtype: str, samples: Sequence[Sample], accelerator: Accelerator, weights: Path | None = None
) -> PackedModel:
    """The model in folder `path`, as `check_and_adapt` leaves it; it is not meant to be trained.

    weights: what a training of this model left, if it is the tuned model that shall score.
    """
    model = PackedModel(load_model(path, dtype) if weights is None else load_tuned(path, weights, dtype))
    check_and_adapt(model.to(accelerator.device), samples, accelerator)
    return model


def check_and_adapt(model: PackedModel, samples: Sequence[Sample], accelerator: Accelerator) -> float:
    """`check_packed_forward` on a few of the samples; then let LoRA compute as the accelerator's autocast does.

    With bf16 the check is made once more under autocast, where a GPU may use another kernel. Every later forward must
    be under `accelerator.autocast()`. Returns the largest difference without autocast.
    """
    few = samples[:CHECKED]
    difference = check_packed_forward(model, few, accelerator.device)
    if accelerator.mixed_precision == "bf16":
        adapt_under_autocast(model)
        with accelerator.autocast():
            check_packed_forward(model, few, accelerator.device)
    return difference


def score_all(
    model: PackedModel,
    samples: Sequence[Sample],
    accelerator: Accelerator,
    batch_size: int,
    *,
    needs: Collection[str] = ("scores",),
    scoring: Scoring | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[BatchScores, Cost]:
    """(scores of all samples, cost of this process) under a model that does not learn.

    needs: only its scores are made. progress: see `CandidateSource.whole_train_set`. Raises NonFinite.
    """
    source = CandidateSource(CellSamples(samples), accelerator, model, Cost(), batch_size, scoring=scoring or Scoring())
    scores = source.whole_train_set(SCORES & set(needs), 0, progress).scores
    assert scores is not None
    return scores, source.cost


def score_with_auxiliary(
    role: str,
    folder: Path | None,
    samples_folder: Path,
    samples: Sequence[Sample],
    needs: Collection[str],
    accelerator: Accelerator,
    cell: Cell,
) -> tuple[BatchScores, Cost]:
    """`score_all` under the cell's `reference` (Rho-1) or `proxy` model, which lies ready in `folder`.

    A proxy scores in the precision and by the head that `scoring` names. UserError if the folder is not given, or if
    the model's tokenizer is not the one that the samples were tokenised with.
    """
    assert cell.training is not None and cell.pruning is not None
    name = getattr(cell.pruning, role).name
    if folder is None:
        raise UserError(f"--{role}: required: the folder of the model {name} that the cell names")
    path = (verified_model if accelerator.is_main_process else model_path)(folder)
    report = read_report(samples_folder)
    if tokenizer_fingerprint(load_tokenizer(path)) != report.get("tokenizer_fingerprint"):
        raise UserError(
            f"options.{role} = {name!r}: has another tokenizer than {cell.model.name}; choose one of its family"
        )
    started = time.perf_counter()
    model = load_for_scoring(path, cell.dtype, samples, accelerator)
    # `scoring` says how the batches of the method are scored, which does not concern a reference
    scoring = cell.pruning.scoring if role == "proxy" else None
    try:
        scores, cost = score_all(model, samples, accelerator, cell.training.batch_size, needs=needs, scoring=scoring)
    except NonFinite as error:
        raise UserError(f"options.{role} = {name!r}: {error}") from None
    cost.seconds_scoring = time.perf_counter() - started
    return scores, cost


def raise_first(failures: Sequence[UserError]) -> None:
    """Raise what the processes met, if anything. A mistake of the user's goes before a training that diverged."""
    mistakes = [failure for failure in failures if not isinstance(failure, NonFinite)]
    if failures:
        raise (mistakes or [NonFinite("; ".join(map(str, failures)))])[0]
