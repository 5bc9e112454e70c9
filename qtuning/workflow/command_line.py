"""What the command line of `snakemake` asks for, read by Snakemake's own parser."""

import contextlib
import io
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

# With these options Snakemake builds nothing, or only single jobs (`target_jobs`: the processes that it starts itself).
OPTIONS_WITHOUT_TARGETS = ("target_jobs", "lint", "list_rules", "list_target_rules", "print_compilation", "unlock",
                           "cleanup_metadata")  # fmt: skip
LOCAL_EXECUTORS = (None, "local", "dryrun", "touch")

ONLY_TELLS = ("dryrun", "dag", "rulegraph", "filegraph", "d3dag", "summary", "detailed_summary")


def _asked(arguments: Sequence[str] | None) -> Namespace | None:
    """The options of `snakemake`, those of profiles among them.

    None in another program, which uses Snakemake as a folder and has a command line of its own.
    """
    program = Path(sys.argv[0])
    if arguments is None and "snakemake" not in (program.stem, program.parent.name):
        return None
    from snakemake.cli import parse_args

    with contextlib.redirect_stderr(io.StringIO()):  # it names the profiles, as it did when Snakemake started
        _, parsed = parse_args(arguments)
    return parsed


def spelled_settings(arguments: Sequence[str] | None = None) -> tuple[list[Path], dict[str, str]] | None:
    """The files of `--configfile`, and KEY -> VALUE of `--config` as it was typed; None in another program."""
    if (asked := _asked(arguments)) is None:
        return None
    entries = [entry.partition("=") for entry in asked.config or ()]
    # Snakemake takes quotes off, too; those that it starts itself get the settings in quotes
    return [Path(file) for file in asked.configfile], {key: value.strip("'\"") for key, _, value in entries}


def only_planned(arguments: Sequence[str] | None = None) -> bool:
    """Whether `snakemake` is to say what it would do, or what there is, and to do nothing (-n, --dag, --summary)."""
    asked = _asked(arguments)
    return asked is not None and any(getattr(asked, name, None) for name in ONLY_TELLS)


def submits(arguments: Sequence[str] | None = None) -> bool:
    """Whether the jobs of this `snakemake` run on other machines: on a cluster, through an executor plugin."""
    asked = _asked(arguments)
    return asked is not None and asked.executor not in LOCAL_EXECUTORS


def snakemake_targets(arguments: Sequence[str] | None = None) -> list[str] | None:
    """Targets on the command line of `snakemake`: [] for the default one, None if this process builds no target.

    Snakemake does not tell a Snakefile its targets. Its own parser reads them here, because an option may take several
    values (`--config a=1 b=2 TARGET`).
    """
    asked = _asked(arguments)
    if asked is None or any(getattr(asked, name, None) for name in OPTIONS_WITHOUT_TARGETS):
        return None
    return list(asked.targets)
