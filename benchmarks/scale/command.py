"""`python -m benchmarks.scale`: train sets and grids of three sizes each; writes the tables of docs/scale.md."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.report import show, write
from benchmarks.scale import cells, rows

ROWS, CELLS = (10_000, 100_000, 1_000_000), (100, 1_000, 5_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="rows of the train sets")
    parser.add_argument("--cells", type=int, nargs="*", default=CELLS, help="cells of the grids, multiples of 100")
    parser.add_argument("--threads", type=int, default=2, help="of a preparation")
    parser.add_argument("--work", type=Path, help="folder for what is generated; default: a temporary one")
    parser.add_argument("--out", type=Path, help="folder to write scale.md and scale.json to")
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = machine.about(torch.device("cpu"))
    with TemporaryDirectory(prefix="qtuning-scale-", dir=args.work) as folder:
        work, tables = Path(folder), []
        for table in (rows.run(args.rows, args.threads, work), cells.run(args.cells, work)):
            if table.rows:
                show(table, console)
                tables.append(table)
    if args.out:
        write(args.out, "scale", facts, tables)


if __name__ == "__main__":
    main()
