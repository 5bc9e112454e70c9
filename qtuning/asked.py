"""The targets that the user typed, which Snakemake does not tell a Snakefile while it is being read."""

import sys
from collections.abc import Sequence
from pathlib import Path

# they build nothing, or name single jobs (the processes that Snakemake starts for them)
OTHERWISE = (
    *("target_jobs", "lint", "list_rules", "list_target_rules", "print_compilation"),
    *("unlock", "cleanup_metadata"),
)


def targets(arguments: Sequence[str] | None = None) -> list[str] | None:
    """Targets on the command line of `snakemake`, none for the default one; None if this process builds none.

    Read by Snakemake's own parser, as options may take several values: `--config a=1 b=2 TARGET`.
    """
    program = Path(sys.argv[0])
    if arguments is None and "snakemake" not in (program.stem, program.parent.name):
        return None  # Snakemake used from Python: its command line is somebody else's
    from snakemake.cli import get_argument_parser

    asked = get_argument_parser().parse_args(arguments)
    if any(getattr(asked, name, None) for name in OTHERWISE):
        return None
    return list(asked.targets)
