"""The bill of some experiments: the work that is left in GPU-hours, memory, disk and money, and what dominates it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtuning.experiment.benchmarks import label_of
from qtuning.plan.jobs import EvaluationJob, Hours, Jobs, TrainingJob
from qtuning.plan.machines import Machine
from qtuning.plan.shapes import BYTES

# bytes, measured on finished mini cells: a row of the trace, an update in metrics.jsonl, an answer in items.parquet, a
# tokenizer
TRACE_ROW, METRICS_UPDATE, ITEM, TOKENIZER = 33, 360, 120, 5_000_000


@dataclass(frozen=True)
class ExperimentCost:
    """An experiment. shared: cells that an earlier row has, and pays. trainings, evaluations: jobs to do, paid here.

    references: reference models to train, which are paid here and counted as no training.
    """

    experiment: str
    cells: int
    done: int
    shared: int
    trainings: int
    evaluations: int
    references: int
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
    by_benchmark: dict[str, float]

    @property
    def wall_hours(self) -> float:
        """With `parallel` devices always busy."""
        return self.total.total / self.parallel


def bill_of(jobs: Jobs, machine: Machine, parallel: int, price: float | None) -> Bill:
    """Add up what is to do on a machine. parallel: devices that work at a time."""
    trainings = [job for job in jobs.trainings.values() if not job.done]
    evaluations = [job for job in jobs.evaluations.values() if not job.done]
    hours: defaultdict[tuple[str, str], Hours] = defaultdict(Hours)  # by experiment and label of the model
    left: list[TrainingJob | EvaluationJob] = [*trainings, *evaluations]
    for job in left:
        hours[job.experiment, job.cell.model.label] += job.hours(machine)
    rows = [
        ExperimentCost(
            experiment=name,
            cells=len(cells),
            done=jobs.finished[name],
            shared=jobs.shared[name],
            trainings=sum(job.experiment == name and not job.reference for job in trainings),
            evaluations=sum(job.experiment == name for job in evaluations),
            references=sum(job.experiment == name and job.reference for job in trainings),
            hours=sum((spent for (experiment, _), spent in hours.items() if experiment == name), Hours()),
        )
        for name, cells in jobs.cells.items()
    ]
    models = []
    for model, shape, ready in jobs.models.values():
        mine = [job for job in trainings if job.cell.model.name == model.name]
        largest = max(mine, key=lambda job: job.memory.total, default=None)
        evaluated = (job.memory.total for job in evaluations if job.cell.model.name == model.name)
        spent = sum((value for (_, label), value in hours.items() if label == model.label), Hours())
        models.append(
            ModelCost(
                model.label, shape.parameters, sum(not job.reference for job in mine),
                largest.memory.total if largest else 0.0, largest.identity if largest else "",
                max(evaluated, default=0.0), spent, ready,
            )
        )  # fmt: skip
    unfinished = {job.identity for job in left}
    everything = {identity for cells in jobs.cells.values() for identity in cells}
    asked = [work for job in evaluations for work in job.work]
    total = sum(hours.values(), Hours())
    benchmarks: Counter[str] = Counter()  # seconds
    for evaluation in evaluations:
        benchmarks.update(evaluation.seconds(machine))
    return Bill(
        machine=machine,
        parallel=parallel,
        price=price,
        rows=tuple(rows),
        models=tuple(models),
        cells=len(everything),
        done=len(everything - unfinished),
        total=total,
        flops={
            "scoring": sum(job.work.scoring_flops for job in trainings),
            "training": sum(job.work.training_flops for job in trainings),
            "evaluation": sum(work.flops(job.shape) for job in evaluations for work in job.work),
        },
        items=sum(work.items for work in asked),
        likelihoods=sum(work.items * work.answers for work in asked),
        generations=sum(work.generations for work in asked),
        generated=(sum(work.generations * work.steps for work in asked), sum(work.most_new_tokens for work in asked)),
        disk=_disk(jobs, trainings, evaluations, parallel),
        dominates=_what_dominates(total, models, benchmarks, trainings, evaluations, machine),
        by_benchmark=dict(benchmarks),
    )


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
    models: Sequence[ModelCost],
    benchmarks: Counter[str],
    trainings: Sequence[TrainingJob],
    evaluations: Sequence[EvaluationJob],
    machine: Machine,
) -> str:
    """One sentence: the largest stage, what of it is largest, and what would shorten it most."""
    if total.total == 0:
        return "Nothing is left to do."
    stages = {"evaluation": total.evaluation, "training": total.training, "scoring": total.scoring}
    share, stage = _largest(stages)
    others = " and ".join(f"{name} {100 * stages[name] / total.total:.0f}%" for name in stages if name != stage)
    by_model = {row.model: getattr(row.hours, stage) for row in models if row.hours.total}
    parts = ["{} of it is {}".format(*_largest(by_model))] if len(by_model) > 1 else []
    if stage == "evaluation":
        percentage, benchmark = _largest(benchmarks)
        parts.insert(0, f"{percentage} of it is {label_of(benchmark)}")
        parts += _quicker_evaluation(evaluations, sum(benchmarks.values()), machine)
    else:
        methods: Counter[str] = Counter()
        for job in trainings:
            assert job.cell.pruning is not None
            methods[job.cell.pruning.method] += getattr(job.work, f"{stage}_flops")
        parts.append("{} of its FLOPs are of {}".format(*_largest(methods)))
    return f"{stage.capitalize()} takes {share} of the hours ({others}): {'; '.join(parts)}."


def _largest(amounts: Mapping[str, float]) -> tuple[str, str]:
    """(percentage of all, name) of the largest amount."""
    name = max(amounts, key=lambda name: amounts[name])
    return f"{100 * amounts[name] / sum(amounts.values()):.0f}%", name


def _quicker_evaluation(evaluations: Sequence[EvaluationJob], seconds: float, machine: Machine) -> list[str]:
    """The keys of an evaluation that would shorten it most, if by a fifth or more."""
    best, least = [], seconds
    # a CPU may emulate bfloat16, at a fraction of the speed of float32
    half, other = {"dtype": "bfloat16"}, {"backend": "vllm"}
    ways: list[tuple[dict[str, str], int]] = [(half, 1), ({}, 4), (half, 4), (other, 1), (half | other, 1)]
    for way, times in ways if machine.device == "cuda" else ways[1:2]:
        spent = 0.0
        for job in evaluations:
            size = times * job.settings.batch_size
            changed = job.changed(**way, batch_size=size)
            fits = changed.memory.total <= machine.usable
            spent += sum(changed.seconds(machine).values()) if fits else float("inf")
        keys = [f"evaluation.{key}: {value}" for key, value in way.items()]
        if times > 1:
            keys.append(f"evaluation.batch_size: {size}")
        if spent < 0.8 * least:
            best, least = [f"{' and '.join(keys)} would take {100 * spent / seconds:.0f}% of that"], spent
    return best
