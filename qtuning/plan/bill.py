"""The bill of some experiments: the work that is left in GPU-hours, memory, disk and money, and what dominates it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from qtuning.experiment.benchmarks import label_of
from qtuning.plan.jobs import EvaluationJob, Jobs, TrainingJob
from qtuning.plan.machines import Machine
from qtuning.plan.memory import evaluation_memory
from qtuning.plan.shapes import BYTES

# bytes, measured on finished mini cells: a row of the trace, an update in metrics.jsonl, an answer in items.parquet, a
# tokenizer
TRACE_ROW, METRICS_UPDATE, ITEM, TOKENIZER = 16, 360, 120, 5_000_000


@dataclass(frozen=True)
class Hours:
    """Device-hours by stage. The start of each process is part of training or of evaluation."""

    scoring: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0

    def __add__(self, other: "Hours") -> "Hours":
        return Hours(self.scoring + other.scoring, self.training + other.training, self.evaluation + other.evaluation)

    @property
    def total(self) -> float:
        """All stages."""
        return self.scoring + self.training + self.evaluation


HoursOf = Mapping[tuple[str, str], Hours]  # by experiment and label of the model


@dataclass(frozen=True)
class ExperimentCost:
    """An experiment. shared: cells that an earlier row has, and pays. trainings, evaluations: jobs to do, paid here."""

    experiment: str
    cells: int
    done: int
    shared: int
    trainings: int
    evaluations: int
    hours: Hours


@dataclass(frozen=True)
class ModelCost:
    """A model: bytes of its largest training (that of training_cell) and evaluation.

    trainings: to do. ready: made ready.
    """

    model: str
    parameters: int
    trainings: int
    training_bytes: float
    training_cell: str
    evaluation_bytes: float
    hours: Hours
    ready: bool


@dataclass(frozen=True)
class Disk:
    """Bytes that the experiments add. passing: weights and checkpoints that are deleted again, of all parallel jobs."""

    base_models: float
    kept_weights: float
    records: float
    passing: float

    @property
    def peak(self) -> float:
        """The most that lies there at one time."""
        return self.base_models + self.kept_weights + self.records + self.passing


@dataclass(frozen=True)
class Bill:
    """All of it; its fields are the keys of `qtuning plan --json`.

    parallel: devices that work at a time. price: USD an hour of one. generated: (expected, most) tokens.
    """

    machine: Machine
    parallel: int
    price: float | None
    rows: tuple[ExperimentCost, ...]
    models: tuple[ModelCost, ...]
    cells: int
    done: int
    total: Hours
    flops: dict[str, float]
    items: int
    likelihoods: int
    generations: int
    generated: tuple[float, int]
    disk: Disk
    dominates: str
    by_benchmark: dict[str, float] = field(default_factory=dict)

    @property
    def wall_hours(self) -> float:
        """With `parallel` devices always busy."""
        return self.total.total / self.parallel


def bill_of(jobs: Jobs, machine: Machine, parallel: int, price: float | None) -> Bill:
    """Add up what is to do on a machine. parallel: devices that work at a time."""
    trainings = [job for job in jobs.trainings.values() if not job.done]
    evaluations = [job for job in jobs.evaluations.values() if not job.done]
    hours: dict[tuple[str, str], Hours] = {}
    benchmarks: Counter[str] = Counter()
    for training in trainings:
        key = training.experiment, training.cell.model.label
        hours[key] = hours.get(key, Hours()) + _training_hours(training, machine)
    for evaluation in evaluations:
        key = evaluation.experiment, evaluation.cell.model.label
        seconds = evaluation.seconds(machine)
        benchmarks.update(seconds)
        hours[key] = hours.get(key, Hours()) + Hours(evaluation=(sum(seconds.values()) + machine.start_seconds) / 3600)
    total = sum(hours.values(), Hours())
    unfinished = {job.identity for job in trainings} | {job.identity for job in evaluations}
    everything = {identity for cells in jobs.cells.values() for identity in cells}
    asked = [work for job in evaluations for work in job.work]
    return Bill(
        machine=machine,
        parallel=parallel,
        price=price,
        rows=_experiments(jobs, trainings, evaluations, hours),
        models=_models(jobs, trainings, evaluations, hours),
        cells=len(everything),
        done=len(everything) - len(unfinished),
        total=total,
        flops={
            "scoring": sum(job.work.scoring_flops for job in trainings),
            "training": sum(job.work.training_flops for job in trainings),
            "evaluation": sum(work.flops(job.shape) for job in evaluations for work in job.work),
        },
        items=sum(work.items for work in asked),
        likelihoods=sum(work.requests for work in asked if work.choices),
        generations=sum(work.generations for work in asked),
        generated=(sum(work.generations * work.steps for work in asked), sum(work.most_new_tokens for work in asked)),
        disk=_disk(jobs, trainings, evaluations, parallel),
        dominates=_what_dominates(total, hours, benchmarks, trainings, evaluations, machine),
        by_benchmark=dict(benchmarks),
    )


def _training_hours(job: TrainingJob, machine: Machine) -> Hours:
    """Device-hours of one training, its process start among them."""
    scale = job.settings.processes / 3600
    training = job.training_seconds(machine) + machine.start_seconds
    return Hours(scoring=job.scoring_seconds(machine) * scale, training=training * scale)


def _experiments(
    jobs: Jobs, trainings: Sequence[TrainingJob], evaluations: Sequence[EvaluationJob], hours: HoursOf
) -> tuple[ExperimentCost, ...]:
    rows = []
    for name, cells in jobs.cells.items():
        own = [spent for (experiment, _), spent in hours.items() if experiment == name]
        rows.append(
            ExperimentCost(
                name, len(cells), jobs.finished[name], jobs.shared[name],
                sum(job.experiment == name for job in trainings), sum(job.experiment == name for job in evaluations),
                sum(own, Hours()),
            )
        )  # fmt: skip
    return tuple(rows)


def _models(
    jobs: Jobs, trainings: Sequence[TrainingJob], evaluations: Sequence[EvaluationJob], hours: HoursOf
) -> tuple[ModelCost, ...]:
    rows = []
    for model, shape, ready in jobs.models.values():
        mine = [job for job in trainings if job.cell.model.name == model.name]
        largest = max(mine, key=lambda job: job.memory.total, default=None)
        evaluated = [job.memory.total for job in evaluations if job.cell.model.name == model.name]
        spent = sum((value for (_, label), value in hours.items() if label == model.label), Hours())
        rows.append(
            ModelCost(
                model.label, shape.parameters, len(mine), 0.0 if largest is None else largest.memory.total,
                "" if largest is None else largest.identity, max(evaluated, default=0.0), spent, ready,
            )
        )  # fmt: skip
    return tuple(rows)


def _disk(jobs: Jobs, trainings: Sequence[TrainingJob], evaluations: Sequence[EvaluationJob], parallel: int) -> Disk:
    base = sum(shape.parameters * BYTES["bfloat16"] for _, shape, ready in jobs.models.values() if not ready)
    kept = passing = records = 0.0
    for job in trainings:
        weights = job.trained_bytes + TOKENIZER
        stay = job.identity in jobs.kept
        kept += weights if stay else 0
        # the last two checkpoints with both moments of Adam, and the weights until they are evaluated
        passing = max(passing, 2 * 3.0 * job.trained_bytes + (0 if stay else weights))
        records += TRACE_ROW * job.work.decisions + METRICS_UPDATE * job.work.updates
    records += ITEM * sum(work.items for job in evaluations for work in job.work)
    return Disk(base, kept, records, passing * min(parallel, max(1, len(trainings))))


def _what_dominates(
    total: Hours,
    hours: HoursOf,
    benchmarks: Counter[str],
    trainings: Sequence[TrainingJob],
    evaluations: Sequence[EvaluationJob],
    machine: Machine,
) -> str:
    """One sentence: the largest stage, what of it is largest, and what would shorten it most."""
    if total.total == 0:
        return "Nothing is left to do."
    stages = {"evaluation": total.evaluation, "training": total.training, "scoring": total.scoring}
    stage = max(stages, key=lambda name: stages[name])
    shares = {name: f"{100 * value / total.total:.0f}%" for name, value in stages.items()}
    others = " and ".join(f"{name} {shares[name]}" for name in stages if name != stage)
    by_model: Counter[str] = Counter()
    for (_, label), spent in hours.items():
        by_model[label] += getattr(spent, stage)
    label, most = by_model.most_common(1)[0]
    of_model = f"{100 * most / stages[stage]:.0f}% of it is {label}" if len(by_model) > 1 else ""
    if stage == "evaluation":
        seconds = sum(benchmarks.values())
        benchmark, longest = benchmarks.most_common(1)[0]
        of_benchmark = f"{100 * longest / seconds:.0f}% of it is {label_of(benchmark)}"
        parts = [of_benchmark, of_model, _quicker_evaluation(evaluations, seconds, machine)]
    else:
        methods: Counter[str] = Counter()
        for job in trainings:
            assert job.cell.pruning is not None
            methods[job.cell.pruning.method] += getattr(job.work, f"{stage}_flops")
        method, flops = methods.most_common(1)[0]
        parts = [of_model, f"{100 * flops / max(1.0, sum(methods.values())):.0f}% of its FLOPs are of {method}"]
    detail = "; ".join(part for part in parts if part)
    return f"{stage.capitalize()} takes {shares[stage]} of the hours ({others}): {detail}."


def _quicker_evaluation(evaluations: Sequence[EvaluationJob], seconds: float, machine: Machine) -> str:
    """The dtype and batch size that would shorten evaluation most, if by a quarter or more; else empty."""
    best, least = "", seconds
    # a CPU may emulate bfloat16, at a fraction of the speed of float32
    faster = ("bfloat16",) if machine.device == "cuda" else ()
    for dtype, times in (*((dtype, 1) for dtype in faster), (None, 4), *((dtype, 4) for dtype in faster)):
        spent, keys = 0.0, [f"evaluation.dtype: {dtype}"] if dtype else []
        for job in evaluations:
            size = times * job.evaluation.batch_size
            work = tuple(replace(asked, batch_size=size, passes=-(-asked.requests // size)) for asked in job.work)
            evaluation = job.evaluation.model_copy(update={"dtype": dtype or job.evaluation.dtype, "batch_size": size})
            fits = evaluation_memory(job.cell, evaluation, job.shape, work).total <= machine.usable
            changed = replace(job, evaluation=evaluation, work=work)
            spent += sum(changed.seconds(machine).values()) if fits else float("inf")
        if times > 1:
            keys.append(f"evaluation.batch_size: {size}")
        if spent < 0.8 * least:
            best, least = f"{' and '.join(keys)} would take {100 * spent / seconds:.0f}% of that", spent
    return best
