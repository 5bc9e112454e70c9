# One cell each. Resume state lies below results/state and is no output. Of the weights one file is an output, which says
# that they are there: the last job that reads full weights removes them all (qtuning/train/wanted.py).


rule train:
    input:
        configuration=ROOT / "configurations/{cell}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        auxiliary=lambda wildcards: INPUTS.auxiliary_models(wildcards.cell),
        # a reference whose weights are made again need not train its users again; its digest says if they changed
        references=ancient(lambda wildcards: INPUTS.references(wildcards.cell)),
        influence=lambda wildcards: INPUTS.influence(wildcards.cell),
        samples=lambda wildcards: INPUTS.samples(wildcards.cell),
        stale=lambda wildcards: STALE.training(wildcards.cell),
    output:
        marker=update(ROOT / "cells/{cell}/train.json"),
        metrics=update(ROOT / "cells/{cell}/metrics.jsonl"),
        trace=update(ROOT / "cells/{cell}/trace.parquet"),
        digest=update(ROOT / "cells/{cell}/weights.sha256"),
        weights=update(ROOT / "cells/{cell}/weights/generation_config.json"),
    log:
        ROOT / "logs/train/{cell}.log",
    benchmark:
        ROOT / "benchmarks/train/{cell}.tsv"
    wildcard_constraints:
        cell=INPUTS.plain_cells(),
    group:
        REQUESTS.groups(workflow.parent_groupids) if SUBMITS else None
    conda:
        "../envs/qtuning.yaml"
    threads: config["threads"] * INPUTS.launch.processes
    resources:
        gpu=lambda wildcards: REQUESTS.gpus(wildcards.cell),
        mem_mb=lambda wildcards, attempt: REQUESTS.training(wildcards.cell).mem_mb(
            attempt
        ),
        runtime=lambda wildcards, attempt: REQUESTS.training(wildcards.cell).minutes(
            attempt
        ),
        results=str(ROOT),
        launch=INPUTS.launch.options(),
        groups=lambda wildcards: TRACKED.options(wildcards.cell),
        observe=lambda wildcards: INPUTS.observe_option(wildcards.cell),
        threads_each=config["threads"],
        tracking=config["tracking"],
        checkpoint_seconds=config["checkpoint_seconds"],
    message:
        "train {wildcards.cell}"
    shell:
        "qtuning train {input.configuration:q} --results {resources.results:q} --threads {resources.threads_each}"
        " {resources.launch} --tracking {resources.tracking:q} {resources.groups}"
        " {resources.observe}"
        " --checkpoint-seconds {resources.checkpoint_seconds} > {log:q} 2>&1"


# Cells of experiments with `observe`: their masks of tokens are in the trace, and fixed samples are watched.
use rule train as train_and_observe with:
    output:
        marker=update(ROOT / "cells/{cell}/train.json"),
        metrics=update(ROOT / "cells/{cell}/metrics.jsonl"),
        trace=update(ROOT / "cells/{cell}/trace.parquet"),
        digest=update(ROOT / "cells/{cell}/weights.sha256"),
        weights=update(ROOT / "cells/{cell}/weights/generation_config.json"),
        watch=update(ROOT / "cells/{cell}/watch.jsonl"),
    wildcard_constraints:
        cell=INPUTS.observed_cells(),
