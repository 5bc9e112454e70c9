"""What the experiments that are asked for want a base model to take, checked before anything is trained."""

from qtuning.experiment.ids import model_id
from qtuning.workflow.inputs import WorkflowInputs


def limit_options(inputs: WorkflowInputs, model: str) -> str:
    """Options of `qtuning base-model` (data/limits.py). model: its name below results/models."""
    cutoffs, lengths, options = [0], [0], set[str]()
    for grid in (inputs.grids[name] for name in sorted(inputs.asked)):
        cells = [cell for cell in grid.cells if model_id(cell.model) == model]
        cutoffs += [cell.training.cutoff for cell in cells if cell.training is not None]
        options |= {f"--template {cell.model.template}" for cell in cells if cell.training is not None}
        if cells and grid.evaluation is not None:
            lengths.append(grid.evaluation.max_length)
            options |= {"--chat"} if grid.evaluation.chat_template else set()
    longest = {"--cutoff": max(cutoffs), "--max-length": max(lengths)}
    return " ".join([*(f"{name} {value}" for name, value in longest.items() if value), *sorted(options)])
