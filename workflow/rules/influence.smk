# LESS: the influence of a train set's samples on target examples, once for all budgets and seeds.


rule influence:
    input:
        configuration=ROOT / "configurations/{measurement}.json",
        warmup=lambda wildcards: INPUTS.digest(INPUTS.warmup(wildcards.measurement)),
        weights=ancient(
            lambda wildcards: INPUTS.weights(INPUTS.warmup(wildcards.measurement))
        ),
        model=lambda wildcards: INPUTS.model(INPUTS.warmup(wildcards.measurement)),
        samples=lambda wildcards: INPUTS.samples(INPUTS.warmup(wildcards.measurement)),
        fetched=ancient(lambda wildcards: HUB.of_measurement(wildcards.measurement)),
        stale=lambda wildcards: STALE.influence(wildcards.measurement),
    output:
        marker=update(ROOT / "influence/{measurement}/influence.json"),
        values=update(ROOT / "influence/{measurement}/influence.parquet"),
    log:
        ROOT / "logs/influence/{measurement}.log",
    benchmark:
        ROOT / "benchmarks/influence/{measurement}.tsv"
    conda:
        "../envs/qtuning.yaml"
    threads: config["threads"]
    resources:
        # its time is a part of that of its warm-up in the plan; one process, which starts anew if it is stopped
        gpu=lambda wildcards: REQUESTS.gpus(
            INPUTS.warmup(wildcards.measurement), evaluation=True
        ),
        mem_mb=lambda wildcards, attempt: REQUESTS.scoring(
            INPUTS.warmup(wildcards.measurement)
        ).mem_mb(attempt),
        runtime=lambda wildcards, attempt: REQUESTS.scoring(
            INPUTS.warmup(wildcards.measurement)
        ).minutes(attempt),
        results=str(ROOT),
        data_dir=DATA_DIR,
    message:
        "influence {wildcards.measurement}"
    shell:
        "qtuning influence {input.configuration:q} --results {resources.results:q} {resources.data_dir}"
        " --threads {threads} > {log:q} 2>&1"
