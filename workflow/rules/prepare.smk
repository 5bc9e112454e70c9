# What cells share: configurations, base models, tokenised train sets.
#
# Settings that change no result (where to read, how to track) are given as `resources`, here and in the other rules:
# unlike `params`, a change of theirs does not make Snakemake run finished jobs again.
#
# The user's files are no `input`, which would go by their times. Digests tell what is stale, and `stale` is empty or a
# file that is newer (qtuning/workflow/stale.py).
#
# `update`: Snakemake deletes other outputs before it starts a job. A job may find that another workflow has made them
# meanwhile, or the one before, which was killed; others may be reading them.


rule configure:
    output:
        update(ROOT / "configurations/{identity}.json"),
    log:
        ROOT / "logs/configure/{identity}.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    params:
        configuration=lambda wildcards: INPUTS.configuration(wildcards.identity),
    message:
        "configuration of {wildcards.identity}"
    shell:
        "( printf '%s\\n' {params.configuration:q} > {output:q}.$$ && mv {output:q}.$$ {output:q} ) 2> {log:q}"


# The only rule that uses the hub, on the machine that runs Snakemake: nodes often have no network. Progress goes to the
# terminal. Which commit a branch was lies beside the output.
rule prefetch:
    output:
        update(ROOT / "hub/{repository}.fetched"),
    log:
        ROOT / "logs/prefetch/{repository}.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        hub=1,
        results=str(ROOT),
        data_dir=DATA_DIR,
    message:
        "fetch {wildcards.repository}"
    shell:
        "qtuning prefetch {wildcards.repository:q} --results {resources.results:q} {resources.data_dir} > {log:q}"
        " && touch {output:q}"


rule base_model:
    input:
        configuration=ROOT / "configurations/{model}.json",
        fetched=ancient(lambda wildcards: HUB.of_model(wildcards.model)),
    output:
        update(ROOT / "models/{model}/model.json"),
    log:
        ROOT / "logs/base_model/{model}.log",
    benchmark:
        ROOT / "benchmarks/base_model/{model}.tsv"
    conda:
        "../envs/qtuning.yaml"
    resources:
        mem_mb=4000,
        results=str(ROOT),
        limits=lambda wildcards: limit_options(INPUTS, wildcards.model),
    message:
        "base model {wildcards.model}"
    shell:
        "qtuning base-model {input.configuration:q} --results {resources.results:q} {resources.limits}"
        " > {log:q} 2>&1"


rule prepare:
    input:
        configuration=ROOT / "configurations/{pair}.json",
        model=lambda wildcards: INPUTS.model(wildcards.pair),
        fetched=ancient(lambda wildcards: HUB.of_train_set(wildcards.pair)),
        stale=lambda wildcards: STALE.train_set(wildcards.pair),
    output:
        report=update(ROOT / "train_sets/{pair}/report.json"),
        samples=update(ROOT / "train_sets/{pair}/samples.parquet"),
    log:
        ROOT / "logs/prepare/{pair}.log",
    benchmark:
        ROOT / "benchmarks/prepare/{pair}.tsv"
    conda:
        "../envs/qtuning.yaml"
    threads: lambda wildcards: REQUESTS.tokenising(wildcards.pair)
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    message:
        "train set {wildcards.pair}"
    shell:
        "qtuning prepare {input.configuration:q} --results {resources.results:q} {resources.data_dir}"
        " --threads {threads} > {log:q} 2>&1"
