# What is asked of single cells beside scores: kinds of pruned tokens (`observe`), time and memory (`measure`).


rule token_kinds:
    input:
        configuration=ROOT / "configurations/{cell}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        samples=lambda wildcards: INPUTS.samples(wildcards.cell),
        trace=ROOT / "cells/{cell}/trace.parquet",
        watch=ROOT / "cells/{cell}/watch.jsonl",
    output:
        ROOT / "cells/{cell}/token_kinds.json",
    log:
        ROOT / "logs/token_kinds/{cell}.log",
    conda:
        "../envs/qtuning.yaml"
    resources:
        mem_mb=4000,
        results=str(ROOT),
        data_dir=DATA_DIR,
    message:
        "kinds of tokens {wildcards.cell}"
    shell:
        "qtuning token-kinds {input.configuration:q} --results {resources.results:q} {resources.data_dir}"
        " > {log:q} 2>&1"


# The training of the cell once more, for its time and memory alone. It takes all cores, or on a cluster a node for
# itself (profiles/slurm), so that no other job of the workflow runs beside it, and leaves nothing but its account.
rule measure:
    input:
        configuration=ROOT / "configurations/{cell}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        auxiliary=lambda wildcards: INPUTS.auxiliary_models(wildcards.cell),
        # as in `train`: its digest says if a reference changed
        references=ancient(lambda wildcards: INPUTS.references(wildcards.cell)),
        influence=lambda wildcards: INPUTS.influence(wildcards.cell),
        samples=lambda wildcards: INPUTS.samples(wildcards.cell),
        stale=lambda wildcards: STALE.training(wildcards.cell, "measured.json"),
    output:
        update(ROOT / "cells/{cell}/measured.json"),
    log:
        ROOT / "logs/measure/{cell}.log",
    conda:
        "../envs/qtuning.yaml"
    threads: config["threads"] * INPUTS.launch.processes if SUBMITS else workflow.cores
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
        threads_each=config["threads"],
    message:
        "measure {wildcards.cell}"
    shell:
        "qtuning train {input.configuration:q} --measure --results {resources.results:q} --tracking disabled"
        " --threads {resources.threads_each} {resources.launch} --checkpoint-seconds 1e9"
        " > {log:q} 2>&1"
