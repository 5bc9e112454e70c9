"""What the rules of the workflow ask for: targets, files, configurations; one broken experiment stops no other."""

import gzip
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qtuning.data.items import items_file
from qtuning.errors import UserError
from qtuning.experiment.ids import ResultPaths, model_id
from qtuning.model.load import make_ready
from qtuning.workflow.command_line import only_planned, snakemake_targets
from qtuning.workflow.inputs import RULES, WorkflowInputs, load_inputs
from qtuning.workflow.limits import VARIABLE, check_models, limit_options

REPOSITORY = Path(__file__).parent.parent
CONFIGS = REPOSITORY / "configs"
BENCHMARKS = ("arc_easy", "arc_challenge", "gsm8k", "squad", "triviaqa")
LARGE_TABLES = ("table1", "table2", "table8", "table9", "table10", "table11", "table12")


def inputs_of(configs: Path, **settings: Any) -> WorkflowInputs:
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    return load_inputs(config | {"warm": False} | settings, configs)  # `warm` would reach the processes of other tests


@pytest.fixture(scope="module")
def inputs() -> WorkflowInputs:
    return inputs_of(CONFIGS)


def test_targets(inputs: WorkflowInputs) -> None:
    # of several seeds, and of a train set that says the kinds of its samples
    for name, several in (("table1-mini", True), ("fig6", False)):
        editions = ["", *(["instrument.", "kinds."] if several else []), "nll.", "p_gold."]
        tables = [f"results/tables/{name}.{edition}md" for edition in editions]
        assert [str(path) for path in inputs.targets(name)] == [*tables, f"results/figures/{name}"]
    assert [str(path) for path in inputs.targets("stability-mini")] == [
        "results/tables/stability-mini.kinds.md",
        "results/figures/stability-mini",
    ], "nothing to evaluate: no table of scores"
    assert [str(path) for path in inputs.targets("localisation-mini")] == [
        "results/tables/localisation-mini.localisation.md",
        "results/tables/localisation-mini.kinds.md",
        "results/figures/localisation-mini",
    ]
    assert [path.name for path in inputs.cells_of("stability-mini")] == ["train.json"] * 18
    localisation = [path.name for path in inputs.cells_of("localisation-mini")]
    assert sorted(localisation) == ["localisation.json"] * 27 + ["train.json"] * 27
    with pytest.raises(UserError, match=r"stability-mini.*has no `evaluation`, and therefore no table"):
        inputs.scores("stability-mini")
    with pytest.raises(UserError, match="unknown; did you mean table1-mini"):
        inputs.targets("table1-mni")


def test_shared_cells_are_asked_for_once(inputs: WorkflowInputs) -> None:
    scores = [path for name in ("v1-table1-mini", "fig5-mini", "table3-mini") for path in inputs.cells_of(name)]
    shared = 3 * 4 * (3 + 2)
    assert len(set(scores)) == len(scores) - shared, "Q-Tuning and controls of three seeds at three budgets, and at two"


def test_weights_go_or_stay(inputs: WorkflowInputs) -> None:
    """Each cell matches one of the two rules that train: observed cells their own. Full weights go, unless observed."""
    patterns = inputs.plain_cells(), inputs.observed_cells()
    plain, observed = (re.compile(f"{pattern}/train.json") for pattern in patterns)
    seen = {path.parent.name for name in ("fig7", "fig8", "fig7-mini", "fig8-mini") for path in inputs.cells_of(name)}
    for identity, cell in inputs.cells.items():
        path = f"{identity}/train.json"
        adapter = cell.training is not None and cell.training.tuning == "lora"
        watched = bool(observed.fullmatch(path))
        assert watched == (inputs.observe_option(identity) == "--observe") and (watched or identity not in seen)
        assert bool(plain.fullmatch(path)) != watched
        assert inputs.goes(identity) == (not cell.zero_shot and not adapter and not watched)


def test_an_invalid_experiment_is_told_to_who_asks_for_it(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    broken = tmp_path / "configs/experiments/broken.yaml"
    broken.write_text("title: [")
    scale = tmp_path / "configs/scales/mini.yaml"
    scale.write_text(scale.read_text().replace("seeds: [0, 1, 2]", "seeds: [0, -1]"))
    (tmp_path / "configs/experiments/train.yaml").write_text("title: called like a rule")
    found = inputs_of(tmp_path / "configs")
    assert "broken" in found.experiments and "train" not in found.experiments
    with pytest.raises(UserError, match=r"experiments/train\.yaml: name = 'train': is the name of a rule; rename"):
        found.check_targets(["train"])
    assert found.targets("table1") and found.targets("table1-smollm2")
    with pytest.raises(UserError, match=f"{re.escape(str(broken))}: line 1: not valid YAML"):
        found.targets("broken")
    for name in ("table1-mini", "fig4-mini"):
        with pytest.raises(UserError, match=r"scales/mini\.yaml: seeds\.1 = -1"):
            found.scores(name)


def test_snakemake_runs_what_is_valid_and_explains_what_is_not(tmp_path: Path) -> None:
    for name in ("workflow", "profiles", "configs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    (tmp_path / "configs/experiments/broken.yaml").write_text("title: B\nparts: [table1, tabel2]\n")

    def dry_run(*targets: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1", *targets]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    result = dry_run("table3", "fig5b-mini", "localisation-mini")
    assert result.returncode == 0, result.stdout + result.stderr
    rows = re.findall(r"^([\w-]+) +(\d+)$", result.stdout + result.stderr, flags=re.MULTILINE)
    jobs = {rule: int(count) for rule, count in rows}
    counted = (
        "evaluate",
        "localise",
        "localisation_table",
        "kinds_table",
        "instrument",
        "likelihood_tables",
        "figures",
    )
    assert {name: jobs[name] for name in counted} == {
        "evaluate": 4 + 3 * (5 + 3) * 3,
        "localise": 3 * (1 + 4 * 2),
        "localisation_table": 1,
        "kinds_table": 2,
        "instrument": 1,
        "likelihood_tables": 2 * 2,
        "figures": 3,
    }
    # some are cells of figure 7 as well, and observed
    assert sum(jobs.get(name, 0) for name in ("train", "train_and_observe")) == 72 + 27 + 4
    assert jobs["train_and_observe"] >= 2
    assert (jobs["tables"], jobs["tables_beside_the_paper"]) == (1, 1)
    result = dry_run(*LARGE_TABLES)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    rows = re.findall(r"^([\w-]+) +(\d+)$", result.stdout + result.stderr, flags=re.MULTILINE)
    jobs = {rule: int(count) for rule, count in rows}
    full, zero_shot = 2 + 3 + 1, 2 + 3 + 1  # of two, three and one model, which several tables share
    pruned = (36 + 70 + 104 - 3 * 2) + (54 + 105 - 2 * 3) + (52 + 52 - 2 * 1)
    assert jobs["train_and_observe"] == 5 + 1, "figures 8 and 7 share them"
    assert jobs["train"] == pruned + full - 6 and jobs["evaluate"] == pruned + full + zero_shot
    assert "tables" not in jobs and jobs["tables_beside_the_paper"] == len(LARGE_TABLES)
    for targets, expected in (
        (
            ["broken", "tabel1"],
            [
                r"error: .*/broken\.yaml: parts: experiment = 'tabel2': unknown; did you mean table2.*",
                r"target = 'tabel1': unknown; did you mean table1\? \(valid: table1, .*",
            ],
        ),
        (
            ["gemma-local", "--config", "data_dir=configs"],
            [
                r"error: .*/configs/alpaca/train\.jsonl\.gz: no such file .*",
                r".*/configs/arc_easy/test\.jsonl\.gz: no such file; data_dir must hold the benchmarks .*",
            ],
        ),
    ):
        result = dry_run(*targets)
        assert result.returncode == 1
        lines = result.stderr.splitlines()
        said = lines[next(index for index, line in enumerate(lines) if line.startswith("error: ")) :]
        assert len(said) == len(expected) and all(map(re.fullmatch, expected, said)), result.stderr


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("-n", []),
        ("-n tabel1", ["tabel1"]),
        ("--cores 2 --config data_dir=x tracking=offline -- a b", ["a", "b"]),
        ("a --report report.html", ["a"]),
        ("--lint", None),
        ("--list-rules", None),
        ("--unlock", None),
        ("--mode subprocess --target-jobs train:cell=x --", None),
    ],
)
def test_targets_are_read_as_snakemake_reads_them(typed: str, expected: list[str] | None) -> None:
    assert snakemake_targets(typed.split()) == expected


def test_another_programs_arguments_are_no_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook", "a", "--strange"])
    assert snakemake_targets() is None


@pytest.mark.parametrize(("typed", "expected"), [("-n a", True), ("a --dry-run", True), ("--cores 2 a", False)])
def test_whether_a_run_is_only_planned(typed: str, expected: bool) -> None:
    assert only_planned(typed.split()) is expected


def test_ratings_and_influence_are_made_for_the_cells_that_need_them(tmp_path: Path) -> None:
    """Ratings that are missing stop a run, but not its plan, and no cell that needs none."""
    shutil.copytree(CONFIGS, tmp_path / "configs")
    path = tmp_path / "configs/train_sets/mini.yaml"
    source = "{kind: mini-world, file: sft/train_0.jsonl.gz}"
    path.write_text(f"source: {source}\nratings: {{kind: path, file: /gone/ratings.csv}}\n")
    experiment = tmp_path / "configs/experiments/mini.yaml"
    plain = experiment.read_text()
    for methods in ("[deita+random, less+random]", "[less+random]"):
        once = plain.partition("methods:")[0] + f"methods: {methods}\n" + plain.partition("budgets:")[1]
        experiment.with_stem("once").write_text(once + plain.partition("budgets:")[2])
        found = inputs_of(tmp_path / "configs")
        cells = {found.cells[name].pruning.sample_pruner: name for name in found.rows if "+random" in name}  # type: ignore[union-attr]
        (measured,) = found.influence(cells["less"])
        assert measured.name == "influence.json" and found.cells[found.warmup(measured.parent.name)].part is not None
        found.check_targets(["once"], dry=True)
        if "deita" not in methods:
            found.check_targets(["once"])
            continue
        assert found.samples(cells["deita"]) != found.samples(cells["less"])
        with pytest.raises(UserError, match=r"^train set mini: ratings: /gone/ratings\.csv: no such file [^`]*$"):
            found.check_targets(["once"])


def test_a_target_without_a_train_split_is_told_before_anything_runs(tmp_path: Path) -> None:
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/experiments/lacking.yaml").write_text(
        "title: Lacking\nmodels: [mini]\ntrain_sets: [mini]\nbudgets: [25x50]\nseeds: [0]\nmethods:\n"
        "  - {method: less+random, options: {influence: {targets: [gsm8k], source: data-dir}}}\n"
    )
    (tmp_path / "data").mkdir()
    found = inputs_of(tmp_path / "configs", data_dir=str(tmp_path / "data"))
    with pytest.raises(
        UserError, match=r"^options\.influence\.targets: gsm8k: its train split is needed .* no file .*$"
    ):
        found.check_targets(["lacking"], dry=True)


def test_targets_are_checked_before_snakemake_asks_for_them(inputs: WorkflowInputs, tmp_path: Path) -> None:
    inputs.check_targets([*inputs.experiments, "all"], dry=True)
    needs_ratings = {name for name in inputs.experiments if name.startswith(("table13", "fig3")) and "mini" not in name}
    inputs.check_targets([*set(inputs.experiments) - needs_ratings, "all"])
    for name in needs_ratings:  # told before anything runs
        with pytest.raises(
            UserError,
            match=r"^train set wizardlm: ratings: wizardlm/ratings\.jsonl\.gz .*=DIR, or name .* `ratings: FILE`$",
        ):
            inputs.check_targets([name])
    inputs.check_targets(["results/tables/mini.md", "results/tables/tabel1.md", "other/file", "report.html"])
    shutil.copytree(CONFIGS, tmp_path / "configs")
    (tmp_path / "configs/train_sets/gone.yaml").write_text(
        "source: {kind: path, file: /gone/sft.jsonl}\ncolumns: {kind: kind, errors: errors}\n"
    )
    path = tmp_path / "configs/experiments/mini.yaml"
    path.write_text(path.read_text().replace("train_sets: [mini]", "train_sets: [mini, gone]"))
    path.with_stem("mini.twin").write_text("titel: a key that does not exist")
    found = inputs_of(tmp_path / "configs")
    for target in ("mini", "results/tables/mini.md", "results/tables/mini.cost.csv", "results/figures/mini"):
        with pytest.raises(UserError, match=r"^/gone/sft\.jsonl: no such file .*$"):
            found.check_targets([target])
    for target in ("mini.yaml", "configs/experiments/mini.yaml", "mini.yml"):
        with pytest.raises(UserError, match=r"name the experiment, not its file: mini$"):
            found.check_targets([target])
    with pytest.raises(UserError, match=r"mini\.twin\.yaml: titel: unknown key; did you mean title\?"):
        found.check_targets(["results/tables/mini.twin.md"])


def test_a_base_model_must_take_what_the_asked_experiments_want(tmp_path: Path) -> None:
    """And nothing of the others, which may want more of the same model."""
    inputs = inputs_of(CONFIGS)
    identity = next(name for name in inputs._shared if inputs._shared[name].zero_shot and name.startswith("mini-"))
    assert limit_options(inputs, identity) == "", "whoever asks for single files is told later"
    inputs.check_targets(["mini"])
    assert limit_options(inputs, identity) == "--cutoff 256 --max-length 256 --template plain"
    other = next(name for name in inputs._shared if name.startswith("gemma-270m-") and inputs._shared[name].zero_shot)
    assert limit_options(inputs, other) == ""


def test_jobs_on_other_machines_know_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    inputs, on_a_node = inputs_of(CONFIGS), inputs_of(CONFIGS)
    inputs.check_targets(["mini"])
    check_models(inputs)
    on_a_node.check_targets(["results/models/mini-00000000/model.json"])
    (model,) = {model_id(cell.model) for cell in inputs.grids["mini"].cells}
    assert limit_options(on_a_node, model) == limit_options(inputs, model) != ""


def test_a_model_that_is_there_must_take_what_a_later_experiment_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    shutil.copytree(CONFIGS, tmp_path / "configs")
    mini = tmp_path / "configs/experiments/mini.yaml"
    mini.with_stem("later").write_text(mini.read_text().replace("max_length: 256", "max_length: 4096"))

    def check(name: str) -> None:
        inputs = inputs_of(tmp_path / "configs", results=tmp_path / "results")
        inputs.check_targets([name])
        check_models(inputs)

    cell = inputs_of(CONFIGS).grids["mini"].cells[0]
    make_ready(cell.model, ResultPaths(tmp_path / "results").model(cell))
    check("mini")
    with pytest.raises(
        UserError, match=r"^evaluation\.max_length = 4096: the model in .* has 512 positions; lower it$"
    ):
        check("later")
    monkeypatch.setattr("qtuning.data.limits.check_limits", None)  # what has passed is not looked at again
    check("mini")


def test_updates_that_the_processes_cannot_share_are_told(tmp_path: Path) -> None:
    found = inputs_of(CONFIGS, processes=2)
    found.check_targets(["extreme"])
    assert found.launch.options() == "--processes 2 --parallel auto"
    with pytest.raises(
        UserError, match=r"^mini: training\.update_samples = 8: batch_size 8 x 2 processes must divide it"
    ):
        found.check_targets(["mini"])


@pytest.mark.parametrize(("name", "processes"), [("ddp-8", "8"), ("ddp-2", "2"), ("single", "1"), ("mine", "N")])
def test_the_old_files_of_launches_are_refused_with_what_took_their_place(name: str, processes: str) -> None:
    message = rf"^accelerate = '{name}': no such setting any more; write processes={processes}$"
    with pytest.raises(UserError, match=message):
        inputs_of(CONFIGS, accelerate=name)


def test_every_rule_is_a_name_that_no_experiment_may_have(inputs: WorkflowInputs) -> None:
    text = "".join(path.read_text() for path in [REPOSITORY / "Snakefile", *REPOSITORY.glob("workflow/rules/*.smk")])
    named = re.findall(r"^rule (\w+):|^use rule \w+ as (\w+)", text, flags=re.MULTILINE)
    assert {first or second for first, second in named} == RULES


def test_an_overlap_is_counted_again_when_a_benchmark_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local copies of both sides are inputs of the check; of the hub's, neither."""
    monkeypatch.setenv("PATH", "")
    data = tmp_path / "data"
    files = [items_file(data, name, "validation" if name.startswith("arc") else None) for name in BENCHMARKS]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(gzip.compress(b"{}\n"))
    train_set = data / "wizardlm" / "train.jsonl.gz"
    train_set.parent.mkdir()
    train_set.write_bytes(gzip.compress(b"{}\n"))
    inputs = inputs_of(CONFIGS, data_dir=str(data))
    (report,) = inputs.overlaps("table1")
    assert inputs.sources_of_check(report.stem) == [train_set, *files]
    files[0].unlink()
    with pytest.raises(UserError, match="data_dir must hold the benchmarks"):
        inputs.sources_of_check(report.stem)
    on_the_hub = inputs_of(CONFIGS)
    (report,) = on_the_hub.overlaps("table1")
    assert on_the_hub.sources_of_check(report.stem) == []
    (report,) = on_the_hub.overlaps("mini")
    assert on_the_hub.sources_of_check(report.stem) == []


def test_evaluations_are_told_apart_by_their_backend(inputs: WorkflowInputs) -> None:
    assert inputs.evaluations_by("vllm") == "(?!)", "no shipped experiment needs vLLM"
    assert set(inputs.evaluations_by("hf").split("|")) == set(inputs.evaluations)
    with pytest.raises(UserError, match="vllm = '/no/python': no such file; name the Python that has vLLM"):
        inputs_of(CONFIGS, vllm="/no/python")
