# qtuning: `snakemake --cores all` runs the mini benchmark, `snakemake --cores all EXPERIMENT` any experiment of
# configs/experiments. Results land below results/: tables/EXPERIMENT.md, cells/, logs/ (docs/results.md).
import sys
from pathlib import Path

from snakemake.utils import min_version

from qtuning.gpus import visible
from qtuning.workflow import load

min_version("9.0")


configfile: "configs/config.yaml"


PLAN = load(config)
ROOT = PLAN.layout.root
DATA_DIR = f"--data-dir '{config['data_dir']}'" if config["data_dir"] else ""

if "gpu" not in workflow.global_resources:
    # as many jobs at once as there are GPUs; `--resources gpu=N` overrides
    workflow.global_resources["gpu"] = max(1, len(visible()))

# jobs find `qtuning` of this very environment, whether or not it is activated
shell.prefix(f"set -euo pipefail; export PATH='{Path(sys.executable).parent}':$PATH; ")


wildcard_constraints:
    identity=r"[^/]+-[0-9a-f]{8}",
    cell=r"[^/]+-[0-9a-f]{8}",
    pair=r"[^/]+-[0-9a-f]{8}",
    model=r"[^/]+-[0-9a-f]{8}",
    evaluation=r"evaluation-[0-9a-f]{8}",


rule all:
    default_target: True
    input:
        f"{ROOT}/tables/mini.md",


include: "workflow/rules/prepare.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
