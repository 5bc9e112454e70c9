"""Benchmarks as lm-eval tasks: lm-eval's own definitions of ARC and GSM8K, ours (`tasks/*.yaml`) of the others.

From the hub a definition is used as it is. From local files only the source of its records is replaced.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.errors import UserError
from qtuning.evaluation.records import EVALUATION_SPLIT, read_records
from qtuning.experiment.schema import Evaluation

if TYPE_CHECKING:
    from datasets import DatasetDict
    from lm_eval.api.task import Task

TASKS = Path(__file__).parent / "tasks"

HUB_ID = {
    "arc_easy": "allenai/ai2_arc",
    "arc_challenge": "allenai/ai2_arc",
    "gsm8k": "openai/gsm8k",
    "squad": "rajpurkar/squad",
    "triviaqa": "mandarjoshi/trivia_qa",
    "math": "EleutherAI/hendrycks_math",
}
MATH_SUBSETS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)

# Examples in the prompt: lm-eval's own number for GSM8K, none elsewhere.
FEWSHOT = {"gsm8k": 5}
# lm-eval's number for tasks that do not say, which is GSM8K (HFLM.max_gen_toks).
DEFAULT_NEW_TOKENS = 256
# The seed with which lm-eval's command line draws these examples.
FEWSHOT_SEED = 1234


def fewshot(benchmark: str, evaluation: Evaluation) -> int:
    """How many examples the prompts of this benchmark show."""
    return FEWSHOT.get(benchmark, 0) if evaluation.fewshot is None else evaluation.fewshot


def load_tasks(evaluation: Evaluation, folder: Path | None) -> dict[str, "Task"]:
    """The benchmarks of `evaluation`, their records loaded, in its order.

    folder: what holds the files when `evaluation.source` is not the hub. Raises UserError where records are missing or
    unusable.
    """
    from lm_eval import tasks as builtin
    from lm_eval.tasks import TaskManager

    own = Path(builtin.__file__).parent
    # Without the defaults: indexing all the tasks lm-eval has takes seconds.
    manager = TaskManager(include_path=[own / "arc", own / "gsm8k", TASKS], include_defaults=False)
    tasks = {}
    for benchmark in evaluation.benchmarks:
        shots = fewshot(benchmark, evaluation)
        task = _from_hub(manager, benchmark) if folder is None else _from_files(manager, benchmark, folder, shots)
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": _longest(task, evaluation)}, update=True)
        tasks[benchmark] = task
    return tasks


def new_tokens(task: "Task") -> int | None:
    """Longest generation of a loaded task, in tokens; None for multiple choice."""
    return task.config.generation_kwargs["max_gen_toks"] if task.OUTPUT_TYPE == "generate_until" else None


def _longest(task: "Task", evaluation: Evaluation) -> int:
    """As configured; else the benchmark's own number, but no more than half of what the model is given."""
    if evaluation.max_new_tokens is None:
        own: int = task.config.generation_kwargs.get("max_gen_toks", DEFAULT_NEW_TOKENS)
        return min(own, evaluation.max_length // 2)
    if evaluation.max_new_tokens >= evaluation.max_length:
        raise UserError(
            f"evaluation.max_new_tokens = {evaluation.max_new_tokens}: leaves no room for a prompt in"
            f" evaluation.max_length = {evaluation.max_length}; lower the first or raise the second"
        )
    return evaluation.max_new_tokens


def _from_hub(manager: Any, benchmark: str) -> "Task":
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return manager.load(benchmark)["tasks"][benchmark]
    except (OSError, DatasetsError, HfHubHTTPError, ValueError) as error:
        # the library's first line says whether it is the network, the name, or offline mode without a cached copy
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{benchmark}: data set {HUB_ID[benchmark]} cannot be had from the Hugging Face hub ({reason});"
            f" connect to it, or give a folder that has {benchmark}/{EVALUATION_SPLIT[benchmark]}.jsonl.gz"
            " with --config data_dir=DIR"
        ) from error


def _from_files(manager: Any, benchmark: str, folder: Path, shots: int) -> "Task":
    """The definition with its records from `folder`. The training split is read only if prompts show examples."""
    from datasets import Dataset, DatasetDict

    split = EVALUATION_SPLIT[benchmark]
    records = {split: read_records(folder, benchmark, split), "train": []}
    if shots:
        records["train"] = read_records(folder, benchmark, "train")
        if len(records["train"]) < shots:
            raise UserError(
                f"{folder / benchmark / 'train.jsonl.gz'}: {len(records['train'])} records,"
                f" but prompts show {shots} examples; lower evaluation.fewshot"
            )
    # In memory: a cache on disk would have to notice that a file changed, and would fill the user's home.
    data = DatasetDict({name: Dataset.from_list(rows) for name, rows in records.items()})

    def from_memory(**_: Any) -> "DatasetDict":
        return data

    # Only a member of a group is merged with the definition of the same name; a bare dictionary would replace it.
    member = {"task": benchmark, "custom_dataset": from_memory}
    task: Task = manager.load({"group": f"{benchmark}_local", "task": [member]})["tasks"][benchmark]
    return task


def hub_math(**_: Any) -> "DatasetDict":
    """All of MATH from the hub: its seven subsets one after the other."""
    from datasets import DatasetDict, concatenate_datasets, load_dataset

    subsets = [load_dataset(HUB_ID["math"], subset) for subset in MATH_SUBSETS]
    return DatasetDict(
        {split: concatenate_datasets([subset[split] for subset in subsets]) for split in ("train", "test")}
    )
