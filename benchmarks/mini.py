"""The mini world made ready for the sections that want real data: a results folder with everything but cells."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from qtuning.data.prepare import prepare
from qtuning.data.samples import Sample, load_samples
from qtuning.experiment.cell import Cell, Evaluation
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import ResultPaths, cell_id, cell_json, evaluation_id
from qtuning.files import write_text
from qtuning.model.load import make_ready, model_path

REPOSITORY = Path(__file__).parent.parent
EXPERIMENT = "mini"


@dataclass(frozen=True)
class Mini:
    """The Q-Tuning cell of experiment `mini`, ready to train, and its zero-shot cell, ready to evaluate."""

    paths: ResultPaths
    cell: Cell
    zero_shot: Cell
    evaluation: Evaluation

    def configuration(self, what: Cell | Evaluation) -> Path:
        """The file that the command line reads."""
        return self.paths.configuration(cell_id(what) if isinstance(what, Cell) else evaluation_id(what))

    def samples(self) -> Sequence[Sample]:
        """The tokenised train set."""
        return load_samples(self.paths.samples(self.cell)).samples


@contextmanager
def mini_world() -> Iterator[Mini]:
    """Make ready the configurations, the base model's marker and the train set, in a temporary folder."""
    (grid,) = ConfigFolder(REPOSITORY / "configs").expand([EXPERIMENT])
    zero_shot = next(cell for cell in grid.cells if cell.zero_shot)
    cell = next(c for c in grid.cells if c.pruning is not None and c.pruning.method == "q-tuning")
    assert grid.evaluation is not None
    with TemporaryDirectory(prefix="qtuning-bench-") as folder:
        ready = Mini(ResultPaths(Path(folder)), cell, zero_shot, grid.evaluation)
        for one in (cell, zero_shot):
            write_text(ready.configuration(one), cell_json(one) + "\n")
        write_text(ready.configuration(grid.evaluation), grid.evaluation.model_dump_json() + "\n")
        model = ready.paths.model(cell)
        make_ready(cell.model, model)
        out = ready.paths.samples(cell)
        prepare(cell, model_path(model), out)
        yield ready
