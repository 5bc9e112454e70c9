# One lm-eval process a cell, for all its benchmarks.


rule evaluate:
    input:
        cell=ROOT / "configurations/{cell}.json",
        evaluation=ROOT / "configurations/{evaluation}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        digest=lambda wildcards: INPUTS.digest(wildcards.cell),
        # Weights are made again when another experiment wants to evaluate them; their digest says if they changed.
        weights=ancient(lambda wildcards: INPUTS.weights(wildcards.cell)),
        questions=lambda wildcards: INPUTS.sources_of_evaluation(wildcards.evaluation),
    output:
        scores=ROOT / "cells/{cell}/{evaluation}/scores.json",
        answers=ROOT / "cells/{cell}/{evaluation}/items.parquet",
    log:
        ROOT / "logs/evaluate/{cell}/{evaluation}.log",
    benchmark:
        ROOT / "benchmarks/evaluate/{cell}/{evaluation}.tsv"
    group:
        short_jobs if SUBMITS else None
    conda:
        "../envs/qtuning.yaml"
    threads: config["threads"]
    resources:
        gpu=lambda wildcards: REQUESTS.gpus(wildcards.cell, evaluation=True),
        mem_mb=lambda wildcards, attempt: REQUESTS.evaluation(
            wildcards.cell, wildcards.evaluation
        ).mem_mb(attempt),
        runtime=lambda wildcards, attempt: REQUESTS.evaluation(
            wildcards.cell, wildcards.evaluation
        ).minutes(attempt),
        results=str(ROOT),
        data_dir=DATA_DIR,
    message:
        "evaluate {wildcards.cell}"
    shell:
        "qtuning evaluate {input.cell:q} {input.evaluation:q} --results {resources.results:q} {resources.data_dir}"
        " --threads {threads} > {log:q} 2>&1"
