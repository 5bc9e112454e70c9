"""The probe on the mini model: it measures this machine, whatever it is."""

from pathlib import Path

import pytest

from qtuning.experiment.grid import Library
from qtuning.experiment.layout import Layout
from qtuning.plan.assumptions import read_assumptions
from qtuning.plan.bill import MachineOf, bill_of
from qtuning.plan.jobs import jobs_of
from qtuning.plan.probe import probe

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
def test_a_probe_measures_training_and_evaluation(tmp_path: Path) -> None:
    jobs = jobs_of(Library(CONFIGS).experiments(["mini"]), Layout(tmp_path), read_assumptions(CONFIGS))
    here, measured = probe(jobs)
    assert set(measured) == {("mini", "training"), ("mini", "evaluation float32")}
    assert all(machine.rate("float32") > 0 and machine.layer_seconds >= 0 for machine in measured.values())
    bill = bill_of(jobs, MachineOf(here, measured), 1, None)
    assert bill.total.training > 0 and bill.total.evaluation > 0 and "probed" in bill.machine.label
