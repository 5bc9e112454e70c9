"""What does not fit into a machine's memory, and which key of an experiment would help."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from qtuning.plan.jobs import EvaluationJob, Jobs, TrainingJob
from qtuning.plan.machines import GIB, Machine
from qtuning.plan.memory import evaluation_memory, training_memory

SMALLER = (32, 16, 8, 4, 2, 1)
Remedy = tuple[str, float]  # key and value, and the bytes that the job would need with it


def list_too_large(jobs: Jobs, machine: Machine) -> list[str]:
    """One line for each model and way of training or evaluating that needs more than the machine has."""
    too_large: dict[Any, list[Any]] = {}
    for training in jobs.trainings.values():
        if not training.done and training.memory.total > machine.usable:
            too_large.setdefault((training.cell.model.name, training.settings), []).append(training)
    for evaluation in jobs.evaluations.values():
        if not evaluation.done and evaluation.memory.total > machine.usable:
            too_large.setdefault((evaluation.cell.model.name, evaluation.evaluation), []).append(evaluation)
    return [_line(alike, machine) for alike in too_large.values()]


def _line(alike: list[Any], machine: Machine) -> str:
    job: TrainingJob | EvaluationJob = max(alike, key=lambda job: job.memory.total)
    if isinstance(job, TrainingJob):
        what, remedies = "training", _training_remedies(job)
    else:
        what, remedies = "evaluating", _evaluation_remedies(job, machine.usable)
    others = f", and {len(alike) - 1} more like it" if len(alike) > 1 else ""
    return (
        f"{job.experiment}: {what} {job.identity}{others} needs {job.memory.total / GIB:.0f} GiB at its largest batch, "
        f"{machine.label} has {machine.usable / GIB:.0f} to give; {_advice(remedies, machine.usable)}"
    )


def _advice(remedies: Iterable[Remedy], room: float) -> str:
    fitting: dict[str, str] = {}
    for key, need in remedies:
        if need <= room:
            fitting.setdefault(key.rstrip("0123456789"), f"{key} ({need / GIB:.0f} GiB)")  # of batch sizes, the largest
    if not fitting:
        return "no key of the experiment makes it fit: take a larger GPU"
    return f"what would fit: {', '.join(fitting.values())}"


def _training_remedies(job: TrainingJob) -> list[Remedy]:
    """The remedies that change the result least come first."""
    training, dtype = job.settings, job.cell.model.dtype

    def remedy(key: str, **changes: Any) -> Remedy:
        changed = job.cell.model_copy(update={"training": training.model_copy(update=changes)})
        return f"training.{key}", training_memory(changed, job.shape, job.lengths).total

    found = []
    if not training.gradient_checkpointing:
        found.append(remedy("gradient_checkpointing: true", gradient_checkpointing=True))
    if training.tuning == "full":
        both = "tuning: lora with gradient_checkpointing: true"
        found.append(remedy("tuning: lora", tuning="lora", dtype=dtype))
        found.append(remedy(both, tuning="lora", dtype=dtype, gradient_checkpointing=True))
    sizes = [size for size in SMALLER if size < training.batch_size]
    return found + [remedy(f"batch_size: {size}", batch_size=size) for size in sizes]


def _evaluation_remedies(job: EvaluationJob, room: float) -> list[Remedy]:
    """The same of an evaluation, which has `room` bytes."""

    def remedy(key: str, **changes: Any) -> Remedy:
        changed = job.evaluation.model_copy(update=changes)
        work = [replace(asked, batch_size=changed.batch_size) for asked in job.work]
        return f"evaluation.{key}", evaluation_memory(job.cell, changed, job.shape, work).total

    sizes = [size for size in SMALLER if size < job.evaluation.batch_size]
    found = [remedy(f"batch_size: {size}", batch_size=size) for size in sizes]
    if job.evaluation.dtype == "float32":
        both = [remedy(f"dtype: bfloat16 with batch_size: {size}", dtype="bfloat16", batch_size=size) for size in sizes]
        largest = next((pair for pair in both if pair[1] <= room), None)
        found = [remedy("dtype: bfloat16", dtype="bfloat16"), *found, *([largest] if largest else [])]
    return found
