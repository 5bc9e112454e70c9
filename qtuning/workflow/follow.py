"""While Snakemake runs: now and then a line for the experiments and one for each cell at work, in its own output.

Snakemake counts jobs, of which a training may be one and a figure another. A thread of Snakemake's process looks at
what the jobs leave (qtuning/status) and prints plain lines to stderr. It also notes when the run began, and holds a
lock as long as it lasts, so that `qtuning status` can tell that it runs.
"""

import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from qtuning.files import write_json
from qtuning.locks import exclusive_if_free
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.machines import find_machine
from qtuning.progress import beside
from qtuning.status.lines import status_line, status_lines
from qtuning.status.look import WORKFLOW, Observer
from qtuning.workflow.inputs import WorkflowInputs

LOOK_SECONDS = 5.0
"""Between two looks. Where a look takes long, because there are many cells or the file system is slow, LAZINESS times
that."""
LAZINESS = 20
LEAST_SECONDS = 15.0  # between two lines about cells that ended
FIRST_SECONDS, MOST_SECONDS = 60.0, 600.0
"""When what runs is listed first, and the longest time until it is again. The times in between double."""


class Follower:
    """Follows the experiments that Snakemake was asked for. `start` and `stop` are hooks of the Snakefile.

    targets: of this Snakemake; None in a process that it started itself, which follows nothing. quiet: what
    Snakemake shall not print (`--quiet`).
    """

    def __init__(
        self,
        inputs: WorkflowInputs,
        targets: Sequence[str] | None,
        config: Mapping[str, Any],
        configs: Path,
        quiet: Collection[Any] | None = None,
    ) -> None:
        found = (inputs.experiment_of("mini" if target == "all" else target) for target in targets or ())
        names = ["mini"] if targets == [] else [name for name in dict.fromkeys(found) if name in inputs.grids]
        self._grids = [] if targets is None else [inputs.grids[name] for name in names]
        self._inputs, self._config, self._configs = inputs, config, configs
        self._quiet = any(each.name in ("ALL", "PROGRESS") for each in quiet or ())
        self._ended, self._thread = threading.Event(), threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """Begin."""
        if self._grids:
            self._thread.start()

    def stop(self) -> None:
        """Print the last line, and end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=60)

    def _follow(self) -> None:
        try:
            lock = self._inputs.paths.lock(WORKFLOW)
            with exclusive_if_free(lock) as alone:
                started = time.time()
                if alone:
                    names = [grid.experiment.name for grid in self._grids]
                    write_json(beside(lock), {"started": started, "experiments": names})
                self._print(started)
        except Exception as error:  # a run goes on without it
            print(f"no progress is shown any more: {type(error).__name__}: {error}", file=sys.stderr)

    def _print(self, started: float) -> None:
        machine = find_machine(str(self._config["machine"]), self._configs, "machine")
        inputs, assumptions = self._inputs, read_assumptions(self._configs)
        observer = Observer(
            self._grids, inputs.paths, assumptions, inputs.data_dir, machine, inputs.launch, since=started
        )
        told: tuple[int, int] | None = None
        wait, said, listed, looked = FIRST_SECONDS, 0.0, time.monotonic(), 0.0
        known: set[str] = set()
        while True:
            ended = self._ended.wait(max(LOOK_SECONDS, LAZINESS * looked))
            now = time.monotonic()
            status = observer.look()
            looked = time.monotonic() - now
            counts = status.done, status.failed
            fresh = [each.text() for each in status.failures if each.text() not in known]
            known.update(fresh)
            if now - listed >= wait and status.runs and not ended:
                self._say(status_lines(status))
                wait, said, listed, told = min(2 * wait, MOST_SECONDS), now, now, counts
            elif fresh or (counts != told and (ended or now - said >= LEAST_SECONDS)):
                self._say([status_line(status), *(f"  failed: {text}" for text in fresh)])
                said, told = now, counts
            if ended:
                return

    def _say(self, lines: Sequence[str]) -> None:
        if not self._quiet:  # all lines at once, since Snakemake prints from a thread, too
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()
