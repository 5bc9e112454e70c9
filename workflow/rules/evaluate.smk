# One lm-eval process a cell, for all its benchmarks. Under `backend: vllm` two: a GPU answers, then a CPU marks (the
# checker of MATH takes minutes).


rule evaluate:
    input:
        cell=ROOT / "configurations/{cell}.json",
        evaluation=ROOT / "configurations/{evaluation}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        digest=lambda wildcards: INPUTS.digest(wildcards.cell),
        # Weights are made again when another experiment wants to evaluate them; their digest says if they changed.
        weights=ancient(lambda wildcards: INPUTS.weights(wildcards.cell)),
        fetched=ancient(lambda wildcards: HUB.of_evaluation(wildcards.evaluation)),
        stale=lambda wildcards: STALE.scores(wildcards.cell, wildcards.evaluation),
    output:
        scores=update(ROOT / "cells/{cell}/{evaluation}/scores.json"),
        answers=update(ROOT / "cells/{cell}/{evaluation}/items.parquet"),
    log:
        ROOT / "logs/evaluate/{cell}/{evaluation}.log",
    benchmark:
        ROOT / "benchmarks/evaluate/{cell}/{evaluation}.tsv"
    wildcard_constraints:
        evaluation=INPUTS.evaluations_by("hf"),
    group:
        REQUESTS.groups(workflow.parent_groupids) if SUBMITS else None
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
        tracking=config["tracking"],
        groups=lambda wildcards: TRACKED.options(wildcards.cell),
    message:
        "evaluate {wildcards.cell}"
    shell:
        "qtuning evaluate {input.cell:q} {input.evaluation:q} --results {resources.results:q} {resources.data_dir}"
        " --tracking {resources.tracking:q} {resources.groups} --threads {threads} > {log:q} 2>&1"


# An engine goes on to the other cells of its base model, whose own jobs then find their replies. The output says that
# there are replies, and stays; these lie beside it and go when they are marked, for all workflows that wait for that.
rule ask:
    input:
        cell=ROOT / "configurations/{cell}.json",
        evaluation=ROOT / "configurations/{evaluation}.json",
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        digest=lambda wildcards: INPUTS.digest(wildcards.cell),
        weights=ancient(lambda wildcards: INPUTS.weights(wildcards.cell)),
        fetched=ancient(lambda wildcards: HUB.of_evaluation(wildcards.evaluation)),
        stale=lambda wildcards: STALE.replies(wildcards.cell, wildcards.evaluation),
    output:
        update(ROOT / "replies/{cell}/{evaluation}.json"),
    log:
        ROOT / "logs/ask/{cell}/{evaluation}.log",
    benchmark:
        ROOT / "benchmarks/ask/{cell}/{evaluation}.tsv"
    wildcard_constraints:
        evaluation=INPUTS.evaluations_by("vllm"),
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
        groups=lambda wildcards: INPUTS.group_options(wildcards.cell),
        vllm=f"--vllm {quote(config['vllm'])}" if config["vllm"] else "",
    message:
        "ask {wildcards.cell}"
    shell:
        "qtuning ask {input.cell:q} {input.evaluation:q} --results {resources.results:q} {resources.data_dir}"
        " {resources.vllm} {resources.groups} --threads {threads} > {log:q} 2>&1"


use rule evaluate as mark with:
    input:
        cell=ROOT / "configurations/{cell}.json",
        evaluation=ROOT / "configurations/{evaluation}.json",
        # ancient: what is marked is told by digests, and another workflow may have come to ask late
        replies=ancient(ROOT / "replies/{cell}/{evaluation}.json"),
        model=lambda wildcards: INPUTS.model(wildcards.cell),
        digest=lambda wildcards: INPUTS.digest(wildcards.cell),
        # their folder is looked into; what is read of it has been answered
        weights=ancient(lambda wildcards: INPUTS.weights(wildcards.cell)),
        fetched=ancient(lambda wildcards: HUB.of_evaluation(wildcards.evaluation)),
        stale=lambda wildcards: STALE.scores(wildcards.cell, wildcards.evaluation),
    log:
        ROOT / "logs/mark/{cell}/{evaluation}.log",
    benchmark:
        ROOT / "benchmarks/mark/{cell}/{evaluation}.tsv"
    wildcard_constraints:
        evaluation=INPUTS.evaluations_by("vllm"),
    resources:
        gpu=0,
        mem_mb=lambda wildcards, attempt: 4000 * attempt,
        runtime=lambda wildcards, attempt: REQUESTS.marking(attempt),
        results=str(ROOT),
        data_dir=DATA_DIR,
        tracking=config["tracking"],
        groups=lambda wildcards: TRACKED.options(wildcards.cell),
    message:
        "mark {wildcards.cell}"
