"""Which repositories experiments need, and that those of the configurations are pinned."""

from pathlib import Path

import pytest

from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import HubSource, Model, TrainSet
from qtuning.experiment.grid import ConfigFolder
from qtuning.hub.repositories import (
    Repository,
    repositories_of,
    repository_of_benchmark,
    repository_of_model,
    repository_of_train_set,
)

CONFIGS = Path(__file__).parents[2] / "configs"
# nobody has been found to say which commits these have: they are resolved when they are fetched, and named in tables
UNPINNED = {"nickrosh/Evol-Instruct-Code-80k-v1", "WizardLMTeam/WizardLM_evol_instruct_70k"}


@pytest.fixture(scope="module")
def folder() -> ConfigFolder:
    return ConfigFolder(CONFIGS)


def test_everything_on_the_hub_is_pinned_or_known_not_to_be(folder: ConfigFolder) -> None:
    found = [repository_of_model(folder.model(name)) for name in folder.names("models")]
    found += [repository_of_train_set(folder.train_set(name)) for name in folder.names("train_sets")]
    found += [repository_of_benchmark(name) for name in BENCHMARKS]
    asked = [repository for repository in found if repository is not None]
    assert len(asked) > 20
    assert {each.id for each in asked if not each.pinned} == UNPINNED
    commits: dict[str, set[str]] = {}
    for each in asked:
        commits.setdefault(each.id, set()).add(each.revision)
    assert {len(revisions) for revisions in commits.values()} == {1}, "one commit a repository, wherever it is named"


def test_an_experiment_names_all_that_it_needs(folder: ConfigFolder) -> None:
    grids = {grid.experiment.name: grid for grid in folder.expand(["table1", "table2", "mini"])}
    assert repositories_of([grids["mini"]]) == []
    assert [str(each) for each in repositories_of([grids["table1"]])] == [
        "data set WizardLMTeam/WizardLM_evol_instruct_70k",
        "data set allenai/ai2_arc",
        "data set allenai/ai2_arc",
        "data set mandarjoshi/trivia_qa",
        "data set openai/gsm8k",
        "data set rajpurkar/squad",
        "model meta-llama/Llama-2-7b-hf",
        "model mistralai/Mistral-7B-v0.1",
    ]
    both = repositories_of(grids.values())
    assert len(both) == len(set(both)) > 8, "each once, however many experiments need it"


def test_local_copies_need_no_hub(tmp_path: Path) -> None:
    (grid,) = ConfigFolder(CONFIGS, tmp_path).expand(["table1"])
    assert {each.kind for each in repositories_of([grid])} == {"model"}


def test_a_local_folder_is_no_repository(tmp_path: Path) -> None:
    assert repository_of_model(Model(name="m", source=HubSource(id=str(tmp_path)))) is None
    asked = repository_of_model(Model(name="m", source=HubSource(id="a/b", revision="v1")))
    assert asked == Repository(kind="model", id="a/b", revision="v1")
    source = HubSource(id="a/b", subset="main")
    assert repository_of_train_set(TrainSet(name="t", source=source)) == Repository(
        kind="dataset", id="a/b", revision="main", subsets=("main",)
    )


def test_names_tell_repositories_revisions_and_subsets_apart() -> None:
    asked = [
        Repository(kind=kind, id=id, revision=revision, subsets=subsets)  # type: ignore[arg-type]
        for kind in ("model", "dataset")
        for id in ("a/b", "a/b-c")
        for revision in ("main", "0" * 40)
        for subsets in ((), ("x",), ("x", "y"))
    ]
    assert len({each.identity for each in asked}) == len(asked)
    assert [each.revision for each in asked if each.pinned] == ["0" * 40] * 12
    assert all(each.identity.startswith(f"hub-{each.kind}-a.b") for each in asked)
