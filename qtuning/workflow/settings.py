"""The settings of a run (configs/config.yaml, `--configfile`, `--config KEY=VALUE`), each as the type that its key has.

Snakemake guesses types: of `--config results=2024_11` it makes the number 202411, and of `warm=false` a text.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qtuning.errors import UserError
from qtuning.experiment.by_type import TRUTH
from qtuning.experiment.strict_yaml import read_yaml
from qtuning.experiment.yaml_files import nearest
from qtuning.tracking.mirror import MODES
from qtuning.workflow.command_line import spelled_settings

VARIABLE = "QTUNING_CONFIGS"
"""Where commands find `configs` if it is not in the working directory (qtuning.cli.options)."""
SETTINGS = ("results", "data_dir", "tracking", "processes", "parallel", "recompute", "threads", "checkpoint_seconds",
            "warm", "vllm", "machine", "time_limit")  # fmt: skip
TEXTS, OPTIONAL_TEXTS = ("results", "tracking", "parallel", "recompute", "machine"), ("data_dir", "vllm")
NUMBERS, OPTIONAL_NUMBERS = ("processes", "threads", "checkpoint_seconds"), ("time_limit",)
TRUTHS = ("warm",)
NULL = ("", "~", "null", "none")


def configs_folder(beside: Path) -> Path:
    """The folder `configs`: that of the working directory, else the one beside the Snakefile, in the folder `beside`.

    So a clone can be used from anywhere (`snakemake -s CLONE/Snakefile`), also one that cannot be written to. Jobs are
    told by the environment. UserError where it has no settings.
    """
    if VARIABLE not in os.environ and not Path("configs/experiments").is_dir():
        os.environ[VARIABLE] = str(beside.resolve() / "configs")
    folder = Path(os.environ.get(VARIABLE, "configs"))
    if not (file := folder / "config.yaml").is_file():
        raise UserError(
            f"{file}: no such file; run snakemake in a clone of the repository, or elsewhere with -s CLONE/Snakefile "
            f"(the file itself, no link to it); `configs` of your own, and {VARIABLE}, need all of CLONE/configs"
        )
    return folder


def read_settings(config: Mapping[str, Any], file: Path, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings by their types. UserError for one that cannot be read as its type.

    config: as Snakemake took them; they count where no command line says more. file: of the defaults. arguments: of
    `snakemake`; None: those of this process.
    """
    found = dict(config)
    if (asked := spelled_settings(arguments)) is not None:
        files, texts = asked
        for each in [file, *files] if file.is_file() else files:
            found |= {key: getattr(value, "text", value) for key, value in read_yaml(each).items()}
        found |= texts
    return {key: _typed(key, value) for key, value in found.items()}


def _typed(key: str, value: Any) -> Any:
    text = "null" if value is None else str(value)
    if isinstance(value, list | dict):
        raise UserError(f"{key} = {text[:60]}: must be one value")
    if any(ord(character) < 32 or 0xD800 <= ord(character) < 0xE000 for character in text):
        raise UserError(f"{key} = {ascii(text)[:60]}: holds characters that no name may have")
    if key == "results" and set(text) & set("{}"):
        raise UserError(f"{key} = {text[:60]}: {{ and }} mean wildcards in Snakemake; name another folder")
    null = text.lower() in NULL
    if key in (*OPTIONAL_TEXTS, *OPTIONAL_NUMBERS) and null:
        return None
    if key in TEXTS and null:
        raise UserError(f"{key} = {text or 'nothing'}: must be given")
    if key == "tracking" and TRUTH.get(text.lower()) is False:
        return "disabled"  # as `off` says
    if key in (*TEXTS, *OPTIONAL_TEXTS):
        return os.path.expanduser(text)  # shells leave it to us behind `=`
    if key in TRUTHS:
        return TRUTH.get(text.lower(), value)
    if key in (*NUMBERS, *OPTIONAL_NUMBERS) and isinstance(value, str):
        if re.fullmatch(r"0|[1-9][0-9]*", text):
            return int(text)
        return float(text) if re.fullmatch(r"[0-9]*\.[0-9]+|[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+", text) else value
    return value


def check_settings(config: Mapping[str, Any]) -> None:
    """UserError for a setting that is unknown, or has a value that it cannot have."""
    if "accelerate" in config:
        count = str(config["accelerate"]).rpartition("-")[2]
        wanted = count if count.isdecimal() else "1" if count == "single" else "N"
        raise UserError(f"accelerate = {config['accelerate']!r}: no such setting any more; write processes={wanted}")
    for key in config:
        if key not in SETTINGS:
            raise UserError(f"--config {key}: unknown setting{nearest(key, SETTINGS)}")
    if not isinstance(config["threads"], int) or config["threads"] < 1:
        raise UserError(f"threads = {config['threads']!r}: must be a whole number above 0")
    if not isinstance(config["checkpoint_seconds"], int | float) or config["checkpoint_seconds"] < 0:
        raise UserError(f"checkpoint_seconds = {config['checkpoint_seconds']!r}: must be a number of seconds")
    if config["tracking"] not in MODES:
        raise UserError(f"tracking = {config['tracking']!r}: unknown{nearest(str(config['tracking']), MODES)}")
    if config["vllm"] is not None and not Path(config["vllm"]).is_file():
        raise UserError(f"vllm = {config['vllm']!r}: no such file; name the Python that has vLLM")
    if not isinstance(config["warm"], bool):
        raise UserError(f"warm = {config['warm']!r}: must be true or false")
