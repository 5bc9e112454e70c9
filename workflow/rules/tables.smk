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
    shell:
        "{QTUNING} tables {wildcards.experiment:q} --results {ROOT:q} {DATA_DIR} 2> {log:q}"


for _experiment in PLAN.grids:

    rule:
        name:
            _experiment
        input:
            f"{ROOT}/tables/{_experiment}.md",
        localrule: True
