"""What the rules need to have been fetched from the hub, and whether it can be had."""

from collections.abc import Iterable
from pathlib import Path

from qtuning.hub.fetch import check_access
from qtuning.hub.repositories import (
    Repository,
    repositories_of,
    repositories_of_benchmarks,
    repository_of_model,
    repository_of_train_set,
)
from qtuning.workflow.inputs import WorkflowInputs


class HubInputs:
    """The repositories of the jobs of a workflow, as the files that the rule `prefetch` makes of them."""

    def __init__(self, inputs: WorkflowInputs) -> None:
        self._inputs, self._folder = inputs, inputs.paths.hub

    def of_model(self, identity: str) -> list[Path]:
        """Of a base model, by its name or that of a cell."""
        return self._markers([repository_of_model(self._inputs.cell(identity).model)])

    def of_train_set(self, identity: str) -> list[Path]:
        """Of the train set of a pair or a cell."""
        train_set = self._inputs.cell(identity).train_set
        return [] if train_set is None else self._markers([repository_of_train_set(train_set)])

    def of_evaluation(self, identity: str) -> list[Path]:
        """Of the benchmarks of an evaluation."""
        asked = self._inputs.evaluations[identity]
        return self._markers(repositories_of_benchmarks(asked.source, asked.benchmarks))

    def of_measurement(self, identity: str) -> list[Path]:
        """Of the benchmarks that target examples are drawn from."""
        asked = self._inputs.measurements[identity].influence
        return self._markers(repositories_of_benchmarks(asked.source or "", asked.targets))

    def of_check(self, name: str) -> list[Path]:
        """Of both sides of an overlap."""
        check = self._inputs.checks[name]
        benchmarks = repositories_of_benchmarks(check.source, check.benchmarks)
        return self._markers([repository_of_train_set(check.train_set), *benchmarks])

    def check_access(self, targets: Iterable[str]) -> None:
        """UserError with a line for each repository of the targets' experiments that was not fetched and cannot be."""
        grids, names = self._inputs.grids, map(self._inputs.experiment_of, targets)
        check_access(repositories_of(grids[name] for name in names if name in grids), self._inputs.paths)

    def _markers(self, repositories: Iterable[Repository | None]) -> list[Path]:
        return [self._folder / f"{each.identity}.fetched" for each in dict.fromkeys(repositories) if each is not None]
