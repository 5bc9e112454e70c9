"""How many processes train a cell: what the accelerate configuration says, and nothing else does."""

from pathlib import Path

from qtuning.errors import UserError
from qtuning.experiment.yaml_files import read_yaml


def processes_of(config: Path) -> int:
    """`num_processes` of an accelerate configuration (configs/accelerate/NAME.yaml). UserError if it has none."""
    found = read_yaml(config).get("num_processes")
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError(f"{config}: num_processes = {found!r}: must be a whole number above 0")
    return found
