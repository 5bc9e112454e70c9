# One cell each. Resume state lies below results/state and is no output: Snakemake deletes the outputs of a job it
# starts again, and the job must find where it was.


rule train:
    input:
        configuration=ROOT / "configurations/{cell}.json",
        model=lambda wildcards: PLAN.model(wildcards.cell),
        samples=lambda wildcards: PLAN.samples(wildcards.cell),
    output:
        marker=ROOT / "cells/{cell}/train.json",
        metrics=ROOT / "cells/{cell}/metrics.jsonl",
        trace=ROOT / "cells/{cell}/trace.parquet",
        weights=temp(directory(ROOT / "cells/{cell}/weights")),
    log:
        ROOT / "logs/train/{cell}.log",
    benchmark:
        ROOT / "benchmarks/train/{cell}.tsv"
    wildcard_constraints:
        cell=PLAN.temporary(),
    threads: config["threads"]
    resources:
        gpu=1,
        mem_mb=4000,
    params:
        groups=lambda wildcards: PLAN.groups(wildcards.cell),
    shell:
        "{QTUNING} train {input.configuration:q} --results {ROOT:q} --threads {threads} {params.groups}"
        " --accelerate configs/accelerate/{config[accelerate]}.yaml --tracking {config[tracking]}"
        " --checkpoint-seconds {config[checkpoint_seconds]} > {log:q} 2>&1"


# Adapters are small and stay, as do the weights of experiments that say `keep_weights`.
use rule train as train_and_keep with:
    output:
        marker=ROOT / "cells/{cell}/train.json",
        metrics=ROOT / "cells/{cell}/metrics.jsonl",
        trace=ROOT / "cells/{cell}/trace.parquet",
        weights=directory(ROOT / "cells/{cell}/weights"),
    wildcard_constraints:
        cell=PLAN.lasting(),
