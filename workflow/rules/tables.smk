# What an experiment is for: its tables and its figures; each experiment is a target of its own name.


rule contamination:
    input:
        fetched=ancient(lambda wildcards: HUB.of_check(wildcards.check)),
        stale=lambda wildcards: STALE.overlap(wildcards.check),
    output:
        update(ROOT / "contamination/{check}.json"),
    log:
        ROOT / "logs/contamination/{check}.log",
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        train_set=lambda wildcards: INPUTS.checks[wildcards.check].train_set.name,
        benchmarks=lambda wildcards: ",".join(INPUTS.checks[wildcards.check].benchmarks),
        source=lambda wildcards: INPUTS.checks[wildcards.check].source,
        protocol=lambda wildcards: INPUTS.checks[wildcards.check].protocol,
        draw=lambda wildcards: INPUTS.checks[wildcards.check].draw,
    message:
        "overlap of {params.train_set} with {params.benchmarks}"
    shell:
        "qtuning contamination {params.train_set:q} --benchmarks {params.benchmarks:q} --source {params.source:q}"
        " --protocol {params.protocol} --draw {params.draw} --results {resources.results:q} {resources.data_dir} > {log:q} 2>&1"


rule tables:
    input:
        lambda wildcards: INPUTS.scores(wildcards.experiment),
        stale=lambda wildcards: STALE.shown(wildcards.experiment),
    output:
        markdown=ROOT / "tables/{experiment}.md",
        csv=ROOT / "tables/{experiment}.csv",
        latex=ROOT / "tables/{experiment}.tex",
        html=report(
            ROOT / "tables/{experiment}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}"},
        ),
        cost=multiext(str(ROOT / "tables/{experiment}.cost"), ".md", ".csv"),
    log:
        ROOT / "logs/tables/{experiment}.log",
    wildcard_constraints:
        # what follows is still a part of the path here, so the name ends at the suffix
        experiment=r"(?!table(?:[1-589]|1[0-5])(?:-[^/.]+)?\.(?:md|csv|tex|html|cost\.md|cost\.csv)$)[^/]+(?<!\.localisation)(?<!\.tokens)(?<!\.efficiency)(?<!\.instrument)(?<!\.kinds)(?<!\.nll)(?<!\.p_gold)",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
        tracking=config["tracking"],
    params:
        cells=lambda wildcards: INPUTS.made_of(wildcards.experiment),
        title=lambda wildcards: INPUTS.grid(wildcards.experiment).experiment.title,
    message:
        "tables of {wildcards.experiment}"
    shell:
        # the table itself goes to the terminal: it is what the user came for
        "qtuning tables {wildcards.experiment:q} --results {resources.results:q} {resources.data_dir}"
        " --tracking {resources.tracking:q} 2> {log:q}"


# Of a table that the paper prints scores in (all but 6 and 7) there is one more page: its numbers beside ours.
use rule tables as tables_beside_the_paper with:
    output:
        markdown=ROOT / "tables/{experiment}.md",
        csv=ROOT / "tables/{experiment}.csv",
        latex=ROOT / "tables/{experiment}.tex",
        html=report(
            ROOT / "tables/{experiment}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}"},
        ),
        cost=multiext(str(ROOT / "tables/{experiment}.cost"), ".md", ".csv"),
        paper=report(
            ROOT / "tables/{experiment}.paper.html",
            caption="../report/paper.rst",
            category="Tables",
            labels={"experiment": "{experiment}, beside the paper"},
        ),
        beside=multiext(
            str(ROOT / "tables/{experiment}"), ".paper.md", ".paper.csv", ".signs.csv"
        ),
    wildcard_constraints:
        experiment=r"table(?:[1-589]|1[0-5])(?:-[^/.]+)?",
    localrule: True


rule localisation_table:
    input:
        lambda wildcards: INPUTS.cells_of(wildcards.experiment),
        stale=lambda wildcards: STALE.shown(wildcards.experiment),
    output:
        markdown=ROOT / "tables/{experiment}.localisation.md",
        csv=report(
            ROOT / "tables/{experiment}.localisation.csv",
            caption="../report/localisation.rst",
            category="Tables",
            labels={"experiment": "{experiment}, planted errors"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.localisation.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        cells=lambda wildcards: INPUTS.made_of(wildcards.experiment),
    message:
        "planted errors of {wildcards.experiment}"
    shell:
        "qtuning tables {wildcards.experiment:q} --results {resources.results:q} {resources.data_dir} 2> {log:q}"


use rule localisation_table as tokens_table with:
    output:
        markdown=ROOT / "tables/{experiment}.tokens.md",
        csv=report(
            ROOT / "tables/{experiment}.tokens.csv",
            caption="../report/tokens.rst",
            category="Tables",
            labels={"experiment": "{experiment}, kinds of tokens"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.tokens.log",
    localrule: True
    message:
        "kinds of tokens of {wildcards.experiment}"


use rule localisation_table as efficiency_table with:
    output:
        markdown=ROOT / "tables/{experiment}.efficiency.md",
        csv=report(
            ROOT / "tables/{experiment}.efficiency.csv",
            caption="../report/efficiency.rst",
            category="Tables",
            labels={"experiment": "{experiment}, time and memory"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.efficiency.log",
    localrule: True
    message:
        "time and memory of {wildcards.experiment}"


use rule localisation_table as kinds_table with:
    output:
        markdown=ROOT / "tables/{experiment}.kinds.md",
        csv=report(
            ROOT / "tables/{experiment}.kinds.csv",
            caption="../report/kinds.rst",
            category="Tables",
            labels={"experiment": "{experiment}, planted kinds of samples"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.kinds.log",
    localrule: True
    message:
        "planted kinds of {wildcards.experiment}"


rule instrument:
    input:
        lambda wildcards: INPUTS.scores(wildcards.experiment),
        stale=lambda wildcards: STALE.shown(wildcards.experiment),
    output:
        markdown=ROOT / "tables/{experiment}.instrument.md",
        csv=report(
            ROOT / "tables/{experiment}.instrument.csv",
            caption="../report/instrument.rst",
            category="Tables",
            labels={"experiment": "{experiment}, what it can tell apart"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.instrument.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        cells=lambda wildcards: INPUTS.made_of(wildcards.experiment),
        out=lambda wildcards, output: str(Path(output[0]).parent),
    message:
        "what {wildcards.experiment} can tell apart"
    shell:
        "( qtuning collect {wildcards.experiment:q} --results {resources.results:q} {resources.data_dir}"
        " && qtuning instrument {wildcards.experiment:q} --store {resources.results:q} --out {params.out:q} ) > {log:q} 2>&1"


rule likelihood_tables:
    input:
        lambda wildcards: INPUTS.scores(wildcards.experiment),
        stale=lambda wildcards: STALE.shown(wildcards.experiment),
    output:
        markdown=ROOT / "tables/{experiment}.{metric}.md",
        csv=ROOT / "tables/{experiment}.{metric}.csv",
        latex=ROOT / "tables/{experiment}.{metric}.tex",
        html=report(
            ROOT / "tables/{experiment}.{metric}.html",
            caption="../report/table.rst",
            category="Tables",
            labels={"experiment": "{experiment}, {metric}"},
        ),
    log:
        ROOT / "logs/tables/{experiment}.{metric}.log",
    wildcard_constraints:
        metric="|".join(EDITIONS),
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        cells=lambda wildcards: INPUTS.made_of(wildcards.experiment),
        title=lambda wildcards: INPUTS.grid(wildcards.experiment).experiment.title,
    message:
        "tables of {wildcards.experiment} by {wildcards.metric}"
    shell:
        "qtuning tables {wildcards.experiment:q} --metric {wildcards.metric} --results {resources.results:q}"
        " {resources.data_dir} > {log:q} 2>&1"


rule figures:
    input:
        lambda wildcards: INPUTS.cells_of(wildcards.experiment),
        stale=lambda wildcards: STALE.shown(wildcards.experiment),
    output:
        report(
            directory(ROOT / "figures/{experiment}"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{experiment}",
            labels={"figure": "{figure}"},
        ),
    log:
        ROOT / "logs/figures/{experiment}.log",
    localrule: True
    conda:
        "../envs/qtuning.yaml"
    resources:
        results=str(ROOT),
        data_dir=DATA_DIR,
    params:
        cells=lambda wildcards: INPUTS.made_of(wildcards.experiment),
        out=lambda wildcards, output: str(Path(output[0]).parent),
    message:
        "figures of {wildcards.experiment}"
    shell:
        "( qtuning collect {wildcards.experiment:q} --results {resources.results:q} {resources.data_dir}"
        " && qtuning figures {wildcards.experiment:q} --store {resources.results:q} --out {params.out:q} ) > {log:q} 2>&1"


for _experiment in INPUTS.experiments:

    rule:
        name:
            _experiment
        input:
            lambda wildcards, experiment=_experiment: INPUTS.targets(experiment),
        localrule: True
