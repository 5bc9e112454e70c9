# Scores and tables of an experiment; each experiment is a target of its own name.


rule tables:
    input:
        lambda wildcards: PLAN.scores(wildcards.experiment),
    output:
        markdown=ROOT / "tables/{experiment}.md",
        csv=ROOT / "tables/{experiment}.csv",
    log:
        ROOT / "logs/tables/{experiment}.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        title=lambda wildcards: PLAN.grid(wildcards.experiment).experiment.title,
    message:
        "table of {wildcards.experiment}"
    shell:
        # the table itself goes to the terminal: it is what the user came for
        "qtuning tables {wildcards.experiment:q} --results {resources.results:q} {resources.data_dir} 2> {log:q}"


for _experiment in PLAN.experiments:

    rule:
        name:
            _experiment
        input:
            lambda wildcards, experiment=_experiment: PLAN.targets(experiment),
        localrule: True


rule:
    name:
        "pretrain-mini"
    input:
        ROOT / "mini_world/manifest.json",
    output:
        directory(ROOT / "pretrain_mini"),
    log:
        ROOT / "logs/pretrain_mini.log",
    benchmark:
        ROOT / "benchmarks/pretrain_mini.tsv"
    conda:
        "../envs/qtuning.yaml"
    threads: 2
    message:
        "pretrain the base model of the mini world"
    shell:
        'qtuning pretrain-mini --world "$(dirname {input:q})" --out {output:q} --threads {threads} > {log:q} 2>&1'
