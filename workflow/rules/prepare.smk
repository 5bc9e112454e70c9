# What cells share: configurations, the mini world, base models, tokenised train sets.


rule configure:
    output:
        ROOT / "configurations/{identity}.json",
    localrule: True
    params:
        configuration=lambda wildcards: PLAN.configuration(wildcards.identity),
    shell:
        "printf '%s\\n' {params.configuration:q} > {output:q}"


rule mini_world:
    output:
        ROOT / "mini_world/manifest.json",
    log:
        ROOT / "logs/mini_world.log",
    shell:
        "{QTUNING} mini-world --out $(dirname {output:q}) > {log:q} 2>&1"


rule base_model:
    input:
        ROOT / "configurations/{model}.json",
    output:
        ROOT / "models/{model}/model.json",
    log:
        ROOT / "logs/base_model/{model}.log",
    benchmark:
        ROOT / "benchmarks/base_model/{model}.tsv"
    resources:
        mem_mb=4000,
    shell:
        "{QTUNING} base-model {input:q} --results {ROOT:q} > {log:q} 2>&1"


rule prepare:
    input:
        configuration=ROOT / "configurations/{pair}.json",
        model=lambda wildcards: PLAN.model_of_pair(wildcards.pair),
        sources=lambda wildcards: PLAN.sources_of_pair(wildcards.pair),
    output:
        report=ROOT / "train_sets/{pair}/report.json",
        samples=ROOT / "train_sets/{pair}/samples.parquet",
    log:
        ROOT / "logs/prepare/{pair}.log",
    benchmark:
        ROOT / "benchmarks/prepare/{pair}.tsv"
    shell:
        "{QTUNING} prepare {input.configuration:q} --results {ROOT:q} {DATA_DIR} > {log:q} 2>&1"
