"""What the command line of `snakemake` asks for, read by Snakemake's own parser."""

import sys
from collections.abc import Sequence
from pathlib import Path

# With these options Snakemake builds nothing, or only single jobs (`target_jobs`: the processes that it starts itself).
OPTIONS_WITHOUT_TARGETS = ("target_jobs", "lint", "list_rules", "list_target_rules", "print_compilation", "unlock",
                           "cleanup_metadata")  # fmt: skip


def only_planned(arguments: Sequence[str] | None = None) -> bool:
    """Whether `snakemake` is to say what it would do, and to do nothing (-n)."""
    from snakemake.cli import get_argument_parser

    return bool(get_argument_parser().parse_args(arguments).dryrun)


def snakemake_targets(arguments: Sequence[str] | None = None) -> list[str] | None:
    """Targets on the command line of `snakemake`: [] for the default one, None if this process builds no target.

    Snakemake does not tell a Snakefile its targets. Its own parser reads them here, because an option may take several
    values (`--config a=1 b=2 TARGET`).
    """
    program = Path(sys.argv[0])
    if arguments is None and "snakemake" not in (program.stem, program.parent.name):
        return None  # another program uses Snakemake as a folder, with a command line of its own
    from snakemake.cli import get_argument_parser

    asked = get_argument_parser().parse_args(arguments)
    if any(getattr(asked, name, None) for name in OPTIONS_WITHOUT_TARGETS):
        return None
    return list(asked.targets)
