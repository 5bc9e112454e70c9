"""What does not fit into a machine's memory, and which key of an experiment would help."""

from typing import Any

from qtuning.plan.jobs import EvaluationJob, Jobs, TrainingJob
from qtuning.plan.machines import GIB, Machine

SMALLER = (32, 16, 8, 4, 2, 1)


def list_too_large(jobs: Jobs, machine: Machine) -> list[str]:
    """One line for each model and way of training or evaluating that needs more than the machine has."""
    too_large: dict[Any, list[TrainingJob | EvaluationJob]] = {}
    everything: list[TrainingJob | EvaluationJob] = [*jobs.trainings.values(), *jobs.evaluations.values()]
    for job in everything:
        if not job.done and job.memory.total > machine.usable:
            too_large.setdefault((job.cell.model.name, job.settings), []).append(job)
    lines = []
    for alike in too_large.values():
        job = max(alike, key=lambda job: job.memory.total)
        what = "training" if isinstance(job, TrainingJob) else "evaluating"
        others = f", and {len(alike) - 1} more like it" if len(alike) > 1 else ""
        lines.append(
            f"{job.experiment}: {what} {job.identity}{others} needs {job.memory.total / GIB:.0f} GiB at its largest "
            f"batch, {machine.label} has {machine.usable / GIB:.0f} to give; {_advice(job, machine.usable)}"
        )
    return lines


def _advice(job: TrainingJob | EvaluationJob, room: float) -> str:
    fitting: dict[str, str] = {}
    for key, settings in _remedies(job):
        need = job.changed(**settings).memory.total
        if need <= room:
            fitting.setdefault(key.rstrip("0123456789"), f"{key} ({need / GIB:.0f} GiB)")  # of batch sizes, the largest
    if not fitting:
        return "no key of the experiment makes it fit: take a larger GPU"
    return f"what would fit: {', '.join(fitting.values())}"


def _remedies(job: TrainingJob | EvaluationJob) -> list[tuple[str, dict[str, Any]]]:
    """(key and value, settings), those that change the result least first."""
    sizes = [size for size in SMALLER if size < job.settings.batch_size]
    if isinstance(job, EvaluationJob):
        found: list[tuple[str, dict[str, Any]]]
        found = [(f"evaluation.batch_size: {size}", {"batch_size": size}) for size in sizes]
        if job.settings.dtype == "float32":
            half, both = {"dtype": "bfloat16"}, "evaluation.dtype: bfloat16 with batch_size"
            found.insert(0, ("evaluation.dtype: bfloat16", half))
            found += [(f"{both}: {size}", half | {"batch_size": size}) for size in sizes]
        return found
    found, checkpointing = [], {"gradient_checkpointing": True}
    if not job.settings.gradient_checkpointing:
        found.append(("recompute: always", checkpointing))
    if job.settings.tuning == "full":
        lora = {"tuning": "lora", "dtype": job.cell.model.dtype}
        found.append(("training.tuning: lora", lora))
        found.append(("training.tuning: lora with gradient_checkpointing: true", lora | checkpointing))
    return found + [(f"training.batch_size: {size}", {"batch_size": size}) for size in sizes]
