"""What does not fit a machine's memory, and which key of an experiment would help."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qtuning.experiment.schema import Evaluation
from qtuning.plan.jobs import Jobs, Scores, Training
from qtuning.plan.machines import GIB, Machine
from qtuning.plan.memory import evaluation_memory, training_memory

SMALLER = (32, 16, 8, 4, 2, 1)


def refusals(jobs: Jobs, machine: Machine) -> list[str]:
    """One line for each model and way of training or evaluating that needs more than its machine has."""
    worst_training: dict[Any, tuple[Training, int]] = {}
    worst_scores: dict[Any, tuple[Scores, int]] = {}
    for job in jobs.trainings.values():
        if not job.done and job.memory.total > machine.usable:
            _note(worst_training, (job.cell.model.name, job.cell.training), job)
    for asked in jobs.scores.values():
        if not asked.done and asked.memory.total > machine.usable:
            _note(worst_scores, (asked.cell.model.name, asked.evaluation), asked)
    lines = [_line(job, count, "training", machine, _training_remedies(job)) for job, count in worst_training.values()]
    lines += [
        _line(job, count, "evaluating", machine, _evaluation_remedies(job, machine.usable))
        for job, count in worst_scores.values()
    ]
    return lines


def _note(worst: dict[Any, tuple[Any, int]], key: Any, job: Any) -> None:
    """Remember the largest job of its kind, and how many there are."""
    largest, count = worst.get(key, (job, 0))
    worst[key] = (job if job.memory.total > largest.memory.total else largest, count + 1)


def _line(
    job: Training | Scores, count: int, what: str, machine: Machine, remedies: Iterable[tuple[str, float]]
) -> str:
    fitting: dict[str, str] = {}
    for key, need in remedies:
        if need <= machine.usable:
            fitting.setdefault(key.rstrip("0123456789"), f"{key} ({need / GIB:.0f} GiB)")  # of batch sizes, the largest
    helping = list(fitting.values())
    advice = (
        f"; what would fit: {', '.join(helping)}"
        if helping
        else "; no key of the experiment makes it fit: take a larger GPU"
    )
    others = f", and {count - 1} more like it" if count > 1 else ""
    return (
        f"{job.experiment}: {what} {job.identity}{others} needs {job.memory.total / GIB:.0f} GiB at its largest batch, "
        f"{machine.label} has {machine.usable / GIB:.0f} to give{advice}"
    )


def _training_remedies(job: Training) -> list[tuple[str, float]]:
    """(key and value, bytes that training would need), the ones that change the result least first."""
    training = job.cell.training
    assert training is not None

    def need(**changes: Any) -> float:
        changed = job.cell.model_copy(update={"training": training.model_copy(update=changes)})
        return training_memory(changed, job.shape, job.lengths).total

    found = []
    if not training.gradient_checkpointing:
        found.append(("training.gradient_checkpointing: true", need(gradient_checkpointing=True)))
    if training.tuning == "full":
        found.append(("training.tuning: lora", need(tuning="lora", dtype=job.cell.model.dtype)))
        both = need(tuning="lora", dtype=job.cell.model.dtype, gradient_checkpointing=True)
        found.append(("training.tuning: lora with gradient_checkpointing: true", both))
    found += [(f"training.batch_size: {size}", need(batch_size=size)) for size in SMALLER if size < training.batch_size]
    return found


def _evaluation_remedies(job: Scores, room: float) -> list[tuple[str, float]]:
    """The same of an evaluation, which has `room` bytes."""
    evaluation = job.evaluation

    def need(**changes: Any) -> float:
        changed: Evaluation = evaluation.model_copy(update=changes)
        answers = [replace(asked, batch_size=changed.batch_size) for asked in job.answers]
        return evaluation_memory(job.cell, changed, job.shape, answers).total

    sizes = [size for size in SMALLER if size < evaluation.batch_size]
    found = []
    if evaluation.dtype == "float32":
        found.append(("evaluation.dtype: bfloat16", need(dtype="bfloat16")))
    found += [(f"evaluation.batch_size: {size}", need(batch_size=size)) for size in sizes]
    if evaluation.dtype == "float32":
        both = [
            (f"evaluation.dtype: bfloat16 with batch_size: {size}", need(dtype="bfloat16", batch_size=size))
            for size in sizes
        ]
        found += [next((pair for pair in both if pair[1] <= room), both[-1])] if both else []
    return found
