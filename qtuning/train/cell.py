"""Train one cell: `train` is the outline, the functions below it are its steps, in order.

Kill a training at any moment; the same command goes on from the last checkpoint to the same final weights (float32 on
the same CPU and thread count: bit for bit). Outputs appear whole, the marker train.json last.
"""

import os
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from qtuning.data.samples import Sample, load_samples
from qtuning.data.templates import turn_of
from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell, Template
from qtuning.experiment.decide import decided, is_open
from qtuning.experiment.finished import DIGESTS, MARKER, WEIGHTS, check_outputs, marker_of
from qtuning.experiment.ids import cell_id, cell_json
from qtuning.experiment.needs import ATTENTION, SCORES, schedule_of
from qtuning.files import atomic_path, read_json, write_json, write_text
from qtuning.manifest import FILES, digests_of, write_sealed
from qtuning.model.compiled import compile_layers
from qtuning.model.load import load_model, model_path, verified_model
from qtuning.model.out_of_memory import telling
from qtuning.model.packed import PackedModel, causal_lm_of
from qtuning.progress import Reporter, beside
from qtuning.provenance import provenance
from qtuning.pruners.method import method_of
from qtuning.scoring.scores import BatchScores, NonFinite
from qtuning.tracking.identity import run_of_cell
from qtuning.tracking.mirror import Mirror
from qtuning.tracking.trained import send_training
from qtuning.train import checkpoint
from qtuning.train.candidates import CellSamples, check_and_adapt, score_with_auxiliary
from qtuning.train.checkpoint import Checkpointer
from qtuning.train.cost import Cost, describe_device, numbers, peak_memory, sum_costs
from qtuning.train.epochs import add_epochs, write_epoch
from qtuning.train.exchange import gather_objects, wait_for_everyone
from qtuning.train.influence import influence_cost, load_influence
from qtuning.train.inputs import read_inputs
from qtuning.train.journal import Diagnosis, RunLog, print_derived
from qtuning.train.optimizer import make_optimizer
from qtuning.train.references import TokenReferences, part_positions, reference_cost, score_references, weights_of
from qtuning.train.replay import load_recording
from qtuning.train.reuse import why_not_reusable
from qtuning.train.seeding import derived_seed
from qtuning.train.sharding import rest, shard, whole_state
from qtuning.train.step import TrainingLoop
from qtuning.train.watch import FILE as WATCH
from qtuning.train.watch import Watch

MEASURED = "measured.json"
GENERATION_CONFIG = "generation_config.json"
SMALLER = "share it among GPUs (parallel: fsdp), or under LoRA set training.quantization: nf4"
OUTPUTS = (f"{WEIGHTS}/{GENERATION_CONFIG}", DIGESTS, "metrics.jsonl", "trace.parquet", MARKER)


@dataclass(frozen=True)
class CellFolders:
    """Where the inputs of a cell lie, and where its outputs and its resume state go.

    model: holds model.json. samples: holds samples.parquet and report.json. auxiliary: role (`reference`, `proxy`) ->
    folder with the model.json of that model, for the roles that the cell has. references: the folders of the cells that
    `references_of` names. influence: folder of the measurement, if the cell's method needs one (LESS). observe: the
    outputs have WATCH, too, and the trace has masks of tokens. measure: there is no output but MEASURED, the account.
    """

    model: Path
    samples: Path
    out: Path
    state: Path
    auxiliary: Mapping[str, Path] = field(default_factory=dict)
    references: tuple[Path, ...] = ()
    influence: Path | None = None
    observe: bool = False
    measure: bool = False

    @property
    def lock(self) -> Path:
        """Lock file of the training."""
        return self.state.with_name(f"{self.state.name}.lock")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what a finished cell has, the marker last."""
        watched = (WATCH,) if self.observe else ()
        return (MEASURED,) if self.measure else (*watched, *OUTPUTS)

    def inputs(self) -> dict[str, Any]:
        """What the configuration cannot say of the inputs: digests of data and tokenizer, commits of models."""
        return read_inputs(self.model, self.samples, self.auxiliary, self.references, self.influence)


def train(
    cell: Cell,
    accelerator: Accelerator,
    folders: CellFolders,
    tracking: str,
    groups: Sequence[str],
    seconds: float,
    sharded: bool = False,
    recompute: bool = False,
    reuse: bool = False,
    variant: str = "",
) -> None:
    """Train `cell` on its prepared inputs, or go on from its last checkpoint; write OUTPUTS below `folders.out`.

    tracking: see `Mirror.open`; groups, variant: see `run_of_cell`. seconds: between checkpoints. sharded: by FSDP,
    else whole in each process (DDP). recompute, reuse: what was decided here (experiment/decide.py).

    A diverged cell (non-finite scores, loss or gradient) is a result: it is recorded as such in train.json, without
    weights. UserError for what the user can mend.
    """
    assert cell.training is not None and cell.seeds is not None and cell.pruning is not None
    started, computed = time.perf_counter(), time.process_time()
    main, load = accelerator.is_main_process, os.getloadavg()[0]
    cell.training.accumulation(accelerator.num_processes)  # refused if the processes cannot share an update
    recompute, reuse = gather_objects([(recompute, reuse)])[0]  # machines may differ, and all must do the same
    running = decided(cell, recompute, reuse)

    # inputs
    base = (verified_model if main else model_path)(folders.model)  # one process reads all of its bytes
    stored = load_samples(folders.samples)
    train_set = CellSamples.of(stored, None if cell.part is None else part_positions(cell.part, len(stored)))
    samples = train_set.samples
    method = method_of(cell.pruning)
    # before the model is made, so that two models never lie in memory at once
    known, table, cost = _score_with_auxiliaries(cell, method.needs.all, samples, accelerator, folders, base)

    # model and optimizer, as they were at the last checkpoint if there is one
    torch.manual_seed(derived_seed(cell.seeds.init, "adapter"))
    language_model = _build_model(base, running, folders.references, empty=sharded and not main)
    model = PackedModel(language_model)
    if reuse and why_not_reusable(model, method.needs.batch, cell.pruning.pruned_tokens) is not None:
        running = decided(cell, recompute, False)
    wait_for_everyone()  # for the slowest to have read its weights; from here on GPUs wait for each other
    with telling("loading", f"a model of {sum(map(numbers, model.parameters())):,} weights", SMALLER):
        if sharded:
            shard(model, accelerator.device)
        else:
            model.to(accelerator.device)
    difference = check_and_adapt(model, samples, accelerator)
    rest(model)
    if cell.training.compile:
        compile_layers(model)
    if method.needs.all & ATTENTION:
        model.collector(method.needs.layer, (), stop=True)  # a layer that the model does not have is refused here
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(cell.training, trainable)
    identity = {"cell": cell_json(cell), "inputs": folders.inputs()}
    resumed = checkpoint.agreed(folders.state, identity, main)
    if resumed is not None:
        checkpoint.restore(resumed.tensors, model, optimizer, resumed.shards)
    # not the optimizer: accelerate's wrapper would look for an uninstalled package on the disk before every step
    # evaluation_mode: what is sharded gets the autocast of the cell, and no DDP around it
    prepared = accelerator.prepare_model(model, device_placement=False, evaluation_mode=sharded)

    # the loop over the updates, and what records it
    influence = None if folders.influence is None else load_influence(folders.influence, samples)
    train_set = replace(train_set, reference=known.nll, token_influence=known.influence, influence=influence)
    if "trace" in method.needs.all:
        recording = load_recording(folders.references, samples, cell.training.epochs)
        train_set = replace(train_set, recording=recording)
    loop = TrainingLoop(running, method, train_set, accelerator, prepared, optimizer, folders.observe)
    loop.source.table = table
    loop.cost.add(cost)
    if main:
        loop.cost.add(reference_cost(() if cell.pruning.replay else folders.references))
        loop.cost.add(influence_cost(folders.influence))
    if resumed is not None:
        loop.restore(resumed.tensors, resumed.state)
    start = loop.progress.update
    if main:
        print_derived(cell, running, accelerator, samples, loop.expected_updates, trainable, start, difference)
    journal = None if resumed is None else resumed.state.get("journal")
    log = RunLog(folders.state, start, journal) if main else None
    diagnosis = Diagnosis(cell.pruning, len(samples), sum(sample.response_length for sample in samples))
    run = run_of_cell(cell, groups, variant)
    mirror = Mirror.open(tracking if main else "disabled", run, folders.state.parent.parent)
    for earlier in log.records() if log is not None else []:
        diagnosis.feed(earlier)
        mirror.log(earlier)
    watch = Watch(loop, folders.state, start, main, journal) if folders.observe else None
    checkpointer = Checkpointer(loop, folders.state, identity, seconds, started, computed, watch)
    wait_for_everyone()  # for the first one, which has opened its files

    with Reporter(beside(folders.lock)) if main else nullcontext() as reporter:
        loss, reason = _run(loop, log, mirror, diagnosis, checkpointer, folders.state, watch, reporter)

    # outputs; the marker comes last, because it says that the others are whole
    checkpointer.take_time()
    costs = gather_objects([loop.cost.summary()])
    weights = None
    if sharded and reason is None and not folders.measure:
        rest(model)
        weights = whole_state(model, trained=cell.training.tuning == "lora")
    if log is None:
        wait_for_everyone()  # for the first one, which writes: processes should leave NCCL together
        return
    folders.out.mkdir(parents=True, exist_ok=True)
    write_text(folders.out / "cell.json", cell_json(cell) + "\n")
    files: dict[str, str] = {}
    if not folders.measure:
        log.publish(folders.out / "metrics.jsonl", folders.out / "trace.parquet")
        files = _write_weights(
            folders.out, base, cell.model.template, None if reason else language_model, folders.state, weights
        )
    if watch is not None:
        watch.publish(folders.out / WATCH)
    if not folders.measure:
        whole = (
            "cell.json",
            *(name for name in folders.outputs if name != MARKER and not name.startswith(WEIGHTS + "/")),
        )
        files |= digests_of(folders.out, [folders.out / name for name in whole])
    checkpointer.take_time()  # for the outputs, which this process alone writes
    marker = {
        "cell": cell_id(cell),
        "status": "done" if reason is None else "diverged",
        "reason": reason,
        "updates": loop.cost.updates,
        "loss": loss,
        "selection": diagnosis.summary(),
        "warnings": list(diagnosis.warnings().values()),
        "cost": sum_costs([loop.cost.summary(), *costs[1:]]),
        "inputs": identity["inputs"],
        **({"decided": _decisions(running)} if recompute or is_open(cell, accelerator.device.type) else {}),
        "provenance": provenance()
        | describe_device(accelerator.device)
        | {"processes": accelerator.num_processes, "threads": torch.get_num_threads(), "load_before": round(load, 2)}
        | ({"parallel": "fsdp" if sharded else "ddp"} if accelerator.num_processes > 1 else {}),
        FILES: files,
    }
    write_sealed(folders.out / folders.outputs[-1], marker)
    send_training(mirror, folders.out, folders.samples, base)
    mirror.finish()
    checkpoint.clear(folders.state)
    print(f"{cell_id(cell)}: {marker['status']} after {marker['updates']} updates" + (f": {reason}" if reason else ""))
    wait_for_everyone()


def _build_model(base: Path, cell: Cell, references: Sequence[Path], empty: bool = False) -> nn.Module:
    """The model that is trained: the base model, wrapped in LoRA if the cell asks for it.

    A reference that goes on (`Cell.part` above 0) starts from the weights of the last of `references`. empty: the same
    modules without weights, on the device `meta` (sharding.py).
    """
    assert cell.training is not None
    start = weights_of(references[-1]) if cell.part is not None and cell.part.number > 0 else None
    full = cell.training.tuning == "full"
    path = start if full and start is not None else base
    model = load_model(path, cell.dtype, empty, cell.training.quantization)
    if cell.training.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if full:
        return model
    from peft import LoraConfig, PeftModel, get_peft_model

    lora, targets = cell.training.lora, cell.model.lora_targets
    if cell.training.gradient_checkpointing:
        model.enable_input_require_grads()
    if start is not None and not empty:  # the same adapter goes on
        return PeftModel.from_pretrained(model, str(start), is_trainable=True)
    modules = targets if targets == "all-linear" else list(targets)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules
    )
    adapted = get_peft_model(model, config)
    if hasattr(causal_lm_of(adapted).get_output_embeddings(), "base_layer"):
        # the chunked head uses the weight itself, so an adapter around it would never get a gradient
        raise UserError(f"lora_targets = {targets!r}: the output head cannot carry an adapter; leave it out")
    return adapted  # type: ignore[return-value]


def _decisions(running: Cell) -> dict[str, Any]:
    """How the cell was trained, where it left that open."""
    assert running.training is not None and running.pruning is not None
    return {"gradient_checkpointing": running.training.gradient_checkpointing, "schedule": schedule_of(running.pruning)}


def _score_with_auxiliaries(
    cell: Cell,
    needs: Collection[str],
    samples: Sequence[Sample],
    accelerator: Accelerator,
    folders: CellFolders,
    base: Path,
) -> tuple[TokenReferences, BatchScores | None, Cost]:
    """(what references say of the tokens, scores under the proxy or None, the cost of both)."""
    assert cell.pruning is not None
    model, proxy = folders.auxiliary.get("reference"), folders.auxiliary.get("proxy")
    known, total = score_references(cell, needs, samples, accelerator, base, folders.samples, model, folders.references)
    scores = set(needs) & SCORES  # at 100% a method needs no scores
    if cell.pruning.scoring.schedule != "proxy" or not scores:
        return known, None, total
    table, cost = score_with_auxiliary("proxy", proxy, folders.samples, samples, scores, accelerator, cell)
    total.add(cost)
    return known, table, total


def _run(
    loop: TrainingLoop,
    log: RunLog | None,
    mirror: Mirror,
    diagnosis: Diagnosis,
    checkpointer: Checkpointer,
    state: Path,
    watch: Watch | None,
    reporter: Reporter | None,
) -> tuple[float | None, str | None]:
    """Make all updates that are left. Returns the last loss, and why training diverged (None if it did not).

    log, reporter: None in processes other than the main one. state: folder of the resume state. watch: None if there is
    none.
    """
    loss, epochs = None, loop.training.epochs
    start, expected = loop.progress.update, loop.expected_updates
    loop.source.reporter = reporter
    with nullcontext() if reporter is None else reporter.doing("update", expected, start):
        try:
            if watch is not None:
                watch.before_training()
            began, before = time.perf_counter(), diagnosis.total("response_tokens")
            for window in loop.windows():
                record, trace = loop.step(window)
                loss = record["loss"]
                loop.cost.peak_memory_bytes = max(loop.cost.peak_memory_bytes, peak_memory(loop.accelerator.device))
                if log is not None:
                    log.log(record)
                    log.trace(trace)
                    mirror.log(record)
                    diagnosis.feed(record)
                    if loop.training.each_epoch and window.index + 1 == window.count:
                        assert loop.optimizer is not None
                        write_epoch(state, window, loop.training, loop.bare, loop.optimizer)
                    for text in diagnosis.news() if window.index + 1 == window.count else ():
                        tqdm.write(f"warning: {text}", file=sys.stderr)
                if watch is not None:
                    watch.after_update(window)
                checkpointer.after_update(log, last=loop.progress.epoch == epochs)
                if reporter is not None:
                    total = window.update - window.index + window.count * (epochs - window.epoch)
                    rate = (diagnosis.total("response_tokens") - before) / (time.perf_counter() - began)
                    figures = diagnosis.kept_and_asked() | {"tokens_per_second": rate}
                    reporter.at(window.update + 1, total, figures if loss is None else {"loss": loss} | figures)
        except NonFinite as error:
            return loss, str(error)
    return loss, None


def _write_weights(
    out: Path,
    base: Path,
    template: Template,
    model: nn.Module | None,
    state: Path,
    gathered: dict[str, Any] | None = None,
) -> dict[str, str]:
    """Write weights/ and weights.sha256, which a repeated training reproduces. Of a diverged cell (None) weights/ has
    GENERATION_CONFIG alone, by which the workflow tells that the folder is there.

    Returns the digests of all files in weights/, by their names below `out`.
    template: of the samples; what ends their turns ends generations, too (generation_config.json). state: folder of the
    resume state, which may hold epochs that are kept (epochs.py). gathered: the weights of a model that is sharded,
    under the names that PackedModel gives them.
    """
    with atomic_path(out / WEIGHTS) as temporary:
        temporary.mkdir()
        if model is not None:
            causal_lm_of(model).config.use_cache = True  # training turns it off, and generation wants it
            whole = gathered and {name.removeprefix("model."): weight for name, weight in gathered.items()}
            model.save_pretrained(temporary, state_dict=whole)  # type: ignore[operator]
            load_tokenizer(base).save_pretrained(temporary)
            add_epochs(state, temporary)
        _write_generation_config(temporary, base, turn_of(load_tokenizer(base), template).id)
    files = digests_of(out, (path for path in (out / WEIGHTS).rglob("*") if path.is_file()))
    tensors = ((name.split("/"), digest) for name, digest in files.items() if name.endswith(".safetensors"))
    write_text(out / DIGESTS, "".join(f"{digest}  {place[1]}\n" for place, digest in tensors if len(place) == 2))
    return files


def _write_generation_config(weights: Path, base: Path, end: int) -> None:
    """Let whoever generates with these weights stop at the token that ended the turns of training.

    As JSON: transformers refuses to save what some makers of models put there.
    """
    own, default = weights / GENERATION_CONFIG, base / GENERATION_CONFIG
    found: dict[str, Any] = next((read_json(file) for file in (own, default) if file.is_file()), {})
    given = found.get("eos_token_id")
    ends = given if isinstance(given, list) else [] if given is None else [given]
    if end not in ends:
        ends = [end, *ends]
    write_json(own, found | {"eos_token_id": ends if len(ends) > 1 else ends[0]})


def is_finished(cell: Cell, folders: CellFolders) -> bool:
    """Whether `folders.out` holds the whole result of this very cell, trained on these very inputs.

    A result that is damaged is told, and counts as none.
    """
    if not all((folders.out / name).exists() for name in folders.outputs) or not is_of_inputs(cell, folders):
        return False
    try:
        if not folders.measure:
            check_outputs(folders.out, WEIGHTS, *folders.outputs)
    except UserError as error:
        print(f"{error}; training now", file=sys.stderr)
        return False
    return True


def is_of_inputs(cell: Cell, folders: CellFolders) -> bool:
    """Whether the marker in `folders.out`, which must be there, is of this very cell, trained on these very inputs.

    One that is damaged is told, and is of no cell.
    """
    try:
        marker = marker_of(folders.out, folders.outputs[-1], cell_id(cell))
    except UserError as error:
        print(f"{error}; training now", file=sys.stderr)
        return False
    return bool(marker.get("inputs") == folders.inputs())  # earlier versions told none
