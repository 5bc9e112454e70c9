# Planted errors against what scores and pruning find, one cell each (experiments with `localisation: true`).


rule localise:
    input:
        configuration=ROOT / "configurations/{cell}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        samples=lambda wildcards: INPUTS.samples(wildcards.cell),
        digest=lambda wildcards: INPUTS.digest(wildcards.cell),
        weights=ancient(lambda wildcards: INPUTS.weights(wildcards.cell)),
        stale=lambda wildcards: STALE.localisation(wildcards.cell),
    output:
        update(ROOT / "cells/{cell}/localisation.json"),
    log:
        ROOT / "logs/localise/{cell}.log",
    benchmark:
        ROOT / "benchmarks/localise/{cell}.tsv"
    conda:
        "../envs/qtuning.yaml"
    threads: config["threads"]
    resources:
        gpu=lambda wildcards: REQUESTS.gpus(wildcards.cell, evaluation=True),
        mem_mb=lambda wildcards, attempt: REQUESTS.scoring(wildcards.cell).mem_mb(
            attempt
        ),
        runtime=lambda wildcards, attempt: REQUESTS.scoring(wildcards.cell).minutes(
            attempt
        ),
        results=str(ROOT),
    message:
        "localise {wildcards.cell}"
    shell:
        "qtuning localise {input.configuration:q} --results {resources.results:q} --threads {threads} > {log:q} 2>&1"
