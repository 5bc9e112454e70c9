# qtuning: `snakemake --cores all` runs the mini benchmark, `snakemake --cores all EXPERIMENT` any experiment of
# configs/experiments. Results land below results/: tables/, figures/, cells/, logs/ (docs/results.md).
import sys
from pathlib import Path
from shlex import quote

from snakemake.utils import min_version

from qtuning.errors import UserError
from qtuning.experiment.metrics import EDITIONS
from qtuning.gpus import visible
from qtuning.owners import check_results
from qtuning.workflow.command_line import only_planned, snakemake_targets, submits
from qtuning.workflow.follow import Follower
from qtuning.workflow.hub import HubInputs
from qtuning.workflow.inputs import load_inputs
from qtuning.workflow.limits import check_models, limit_options
from qtuning.workflow.requests import requests_of
from qtuning.workflow.settings import configs_folder, read_settings
from qtuning.workflow.stale import Stale, want_weights
from qtuning.workflow.tracked import TrackedRuns

min_version("9.0")


try:
    CONFIGS = configs_folder(Path(workflow.basedir))
except UserError as error:
    sys.exit(f"error: {error}")


configfile: str(CONFIGS / "config.yaml")


# What is wrong with the targets is said here, since Snakemake wraps what input functions raise in rules and tracebacks,
# and of an exception it would say that it comes from this file.
try:
    SUBMITS = submits()
    config.update(read_settings(config, CONFIGS / "config.yaml"))
    INPUTS = load_inputs(config, CONFIGS, submits=SUBMITS)
    HUB = HubInputs(INPUTS)
    REQUESTS = requests_of(config, INPUTS, CONFIGS)
    TRACKED = TrackedRuns(INPUTS, asked := snakemake_targets())
    if asked is not None:
        INPUTS.check_targets(asked or ["mini"], dry=only_planned())
        if SUBMITS:
            named = map(INPUTS.experiment_of, asked or ["mini"])
            REQUESTS.check_targets([name for name in named if name is not None])
        check_results(INPUTS.paths.root, to_write=not only_planned())
        if not only_planned():
            HUB.check_access(asked or ["mini"])
            check_models(INPUTS)
            want_weights(
                INPUTS,
                ["mini" if name == "all" else name for name in asked or ["mini"]],
                REQUESTS.group if SUBMITS else None,
            )
    STALE = Stale(INPUTS)
    DEVICES = [] if SUBMITS else visible()
    FOLLOWER = Follower(INPUTS, asked, config, CONFIGS, workflow.output_settings.quiet)
except UserError as error:
    sys.exit(f"error: {error}")
ROOT = INPUTS.paths.root
DATA_DIR = f"--data-dir {quote(str(INPUTS.data_dir))}" if INPUTS.data_dir else ""

if DEVICES and "gpu" not in workflow.global_resources:
    # as many jobs at once as there are GPUs here; `--resources gpu=N` overrides. Without GPUs the cores are the limit.
    workflow.global_resources["gpu"] = len(DEVICES)

# one repository at a time: each has progress to show, and all the bandwidth
workflow.global_resources.setdefault("hub", 1)


wildcard_constraints:
    identity=r"[^/]+-[0-9a-f]{8}",
    cell=r"[^/]+-[0-9a-f]{8}",
    pair=r"[^/]+-[0-9a-f]{8}",
    model=r"[^/]+-[0-9a-f]{8}",
    measurement=r"[^/]+-influence-[0-9a-f]{8}",
    evaluation=r"evaluation-[0-9a-f]{8}",
    repository=r"hub-[^/]+-[0-9a-f]{8}",


rule all:
    default_target: True
    input:
        lambda wildcards: INPUTS.targets("mini"),


include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/influence.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/localise.smk"
include: "workflow/rules/probe.smk"
include: "workflow/rules/tables.smk"


# cells done, at work and failed, and the time left, between what Snakemake prints of jobs
onstart:
    FOLLOWER.start()


onsuccess:
    FOLLOWER.stop()


onerror:
    FOLLOWER.stop()
    print(
        "Finished cells are kept: the same command goes on from here, and with --keep-going past a broken cell."
    )
    print(
        "`qtuning tables EXPERIMENT` makes the table of what there is, with holes that say why."
    )
