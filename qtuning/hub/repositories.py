"""What is needed of the hub: models, train sets and benchmarks, each a repository at a revision."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from qtuning.experiment.base import Config
from qtuning.experiment.benchmarks import BENCHMARKS
from qtuning.experiment.cell import HubSource, Model, TrainSet
from qtuning.experiment.grid import Grid
from qtuning.experiment.ids import AUXILIARY, slug
from qtuning.experiment.influence import measurement_of
from qtuning.files import short_hash

COMMIT = re.compile("[0-9a-f]{40}")


class Repository(Config):
    """A model or a data set on the hub.

    revision: a commit, or a branch or tag, which is resolved to a commit when the repository is fetched. subsets:
    configurations of a data set that are read; none: it has only one.
    """

    kind: Literal["model", "dataset"]
    id: str
    revision: str
    subsets: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Name of its configuration, and of what is known of it once it is fetched."""
        return slug("hub", self.kind, self.id.replace("/", "."), short_hash(self.model_dump(mode="json")))

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit. A branch moves: the same name may mean other files tomorrow."""
        return COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        """`model OWNER/NAME`, `data set OWNER/NAME`."""
        return f"{'model' if self.kind == 'model' else 'data set'} {self.id}"


def repository_of_model(model: Model) -> Repository | None:
    """Where a base model is fetched from; None for one that is shipped, converted, or a local folder."""
    source = model.source
    if not isinstance(source, HubSource) or Path(source.id).expanduser().is_dir():
        return None
    return Repository(kind="model", id=source.id, revision=source.revision)


def repository_of_train_set(train_set: TrainSet) -> Repository | None:
    """Where the rows of a train set are fetched from; None for a local file."""
    source = train_set.source
    if not isinstance(source, HubSource):
        return None
    subsets = () if source.subset is None else (source.subset,)
    return Repository(kind="dataset", id=source.id, revision=source.revision, subsets=subsets)


def repository_of_benchmark(name: str) -> Repository | None:
    """Where the items of a benchmark are fetched from; None for one that is not on the hub."""
    record = BENCHMARKS[name]
    if record.hub_id is None:
        return None
    return Repository(kind="dataset", id=record.hub_id, revision=record.revision, subsets=record.subsets)


def repositories_of_benchmarks(source: str, names: Iterable[str]) -> list[Repository]:
    """Those of benchmarks whose items come from `source`: none unless that is the hub."""
    found = [repository_of_benchmark(name) for name in names] if source == "hub" else []
    return [repository for repository in found if repository is not None]


def repositories_of(grids: Iterable[Grid]) -> list[Repository]:
    """All that experiments need of the hub, each once: models, train sets, benchmarks."""
    found: dict[Repository | None, None] = {}
    models: dict[str, Model] = {}
    train_sets: dict[str, TrainSet] = {}
    for grid in grids:
        for cell in grid.cells:
            others = (getattr(cell.pruning, role, None) for role in AUXILIARY)
            models |= {model.name: model for model in (cell.model, *others) if isinstance(model, Model)}
            if cell.train_set is not None:
                train_sets.setdefault(cell.train_set.name, cell.train_set)
            if (measurement := measurement_of(cell)) is not None:
                asked = measurement.influence
                found |= dict.fromkeys(repositories_of_benchmarks(asked.source or "", asked.targets))
        if grid.evaluation is not None:
            found |= dict.fromkeys(repositories_of_benchmarks(grid.evaluation.source, grid.evaluation.benchmarks))
    found |= dict.fromkeys(map(repository_of_model, models.values()))
    found |= dict.fromkeys(map(repository_of_train_set, train_sets.values()))
    return sorted((each for each in found if each is not None), key=str)
