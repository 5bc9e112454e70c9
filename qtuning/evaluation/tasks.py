"""Builds the tasks of lm-eval: its own definitions of ARC and GSM8K, ours (`tasks/*.yaml`) of the other benchmarks.

Only the source of the items is replaced in a definition.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtuning.data.items import asked_items, hub_items, split_items
from qtuning.errors import UserError
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import Evaluation

if TYPE_CHECKING:
    from datasets import DatasetDict
    from lm_eval.api.task import Task

TASKS = Path(__file__).parent / "tasks"

# lm-eval's number for tasks that name none, such as GSM8K (HFLM.max_gen_toks)
DEFAULT_NEW_TOKENS = 256
# the seed with which lm-eval's command line draws the examples of a prompt
FEWSHOT_SEED = 1234


def shots_of(benchmark: str, evaluation: Evaluation) -> int:
    """How many examples a prompt of this benchmark shows."""
    return BENCHMARKS[benchmark].fewshot if evaluation.fewshot is None else evaluation.fewshot


def load_tasks(evaluation: Evaluation, folder: Path | None, hub: Path | None = None) -> dict[str, "Task"]:
    """The benchmarks of `evaluation` in its order, with their items loaded.

    folder: where local files lie; None for the hub. hub: where it says what was fetched (ResultPaths.hub). UserError if
    items are missing or unusable.
    """
    from lm_eval import tasks as builtin
    from lm_eval import utils
    from lm_eval.tasks import TaskManager

    # lm-eval compiles a template for every item, which takes longer than the mini model's answers
    if not hasattr(utils.env.from_string, "cache_info"):
        utils.env.from_string = lru_cache(maxsize=256)(utils.env.from_string)

    own = Path(builtin.__file__).parent
    # without the defaults: lm-eval takes seconds to index all its tasks
    manager = TaskManager(include_path=[own / "arc", own / "gsm8k", TASKS], include_defaults=False)
    tasks = {}
    for benchmark in evaluation.benchmarks:
        shots = shots_of(benchmark, evaluation)
        record, protocol = BENCHMARKS[benchmark], evaluation.protocol
        if folder is None and record.asked_split(protocol) == record.split:
            data = hub_items(record, hub)
        else:
            more = () if evaluation.limit is None or record.subject is None else (record.subject,)  # a draw needs it
            examples = split_items(benchmark, "train", folder, hub) if shots else []
            data = _splits(benchmark, asked_items(benchmark, protocol, folder, hub, more), examples, shots)
        task = _with_items(manager, benchmark, data)
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(FEWSHOT_SEED)
        if task.OUTPUT_TYPE == "generate_until":
            task.set_config("generation_kwargs", {"max_gen_toks": _longest(task, evaluation)}, update=True)
        tasks[benchmark] = task
    return tasks


def max_new_tokens(task: "Task") -> int | None:
    """Longest generation of a loaded task, in tokens; None for multiple choice."""
    return task.config.generation_kwargs["max_gen_toks"] if task.OUTPUT_TYPE == "generate_until" else None


def _longest(task: "Task", evaluation: Evaluation) -> int:
    """As configured, else the benchmark's own number, but at most half of the context."""
    if evaluation.max_new_tokens is None:
        own: int = task.config.generation_kwargs.get("max_gen_toks", DEFAULT_NEW_TOKENS)
        return min(own, evaluation.max_length // 2)
    if evaluation.max_new_tokens >= evaluation.max_length:
        raise UserError(
            f"evaluation.max_new_tokens = {evaluation.max_new_tokens}: leaves no room for a prompt in"
            f" evaluation.max_length = {evaluation.max_length}; lower the first or raise the second"
        )
    return evaluation.max_new_tokens


def _splits(benchmark: str, items: list[dict[str, Any]], examples: list[dict[str, Any]], shots: int) -> "DatasetDict":
    """The items that are asked, and the training split, which is read only if prompts show examples of it."""
    from datasets import Dataset, DatasetDict

    if len(examples) < shots:
        raise UserError(
            f"{benchmark}: its training split has {len(examples)} records, but prompts show {shots} examples; lower "
            "evaluation.fewshot"
        )
    # in memory: a cache on disk would have to notice that a file has changed, and would fill the user's home
    splits = {BENCHMARKS[benchmark].split: items, "train": examples}
    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})


def _with_items(manager: Any, benchmark: str, data: "DatasetDict") -> "Task":
    """The definition with these items. lm-eval itself would load them from the hub, at whatever revision it finds."""
    # lm-eval merges a member of a group with the definition of the same name; a bare dictionary would replace it
    member = {"task": benchmark, "custom_dataset": lambda **_: data}
    task: Task = manager.load({"group": f"{benchmark}_local", "task": [member]})["tasks"][benchmark]
    return task
