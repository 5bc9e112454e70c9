"""`python -m benchmarks`: run the sections, show their tables, write them to docs/benchmarks/."""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import gradients, half, head, lora, machine, memory, selection, startup, steps
from benchmarks.mini import REPOSITORY
from benchmarks.report import Table, show, targets, write
from benchmarks.shapes import CPU, GPU, QUICK, Setting

SECTIONS: Mapping[str, Callable[[Setting], list[Table]]] = {
    "steps": steps.run,
    "lora": lora.run,
    "bf16": half.run,
    "head": head.run,
    "memory": memory.run,
    "selection": selection.run,
    "gradients": gradients.run,
    "startup": startup.run,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. A whole run writes docs/benchmarks/DEVICE.md and .json; a partial or quick one only to --out."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, its times mean nothing")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="a section; repeatable")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU if there is one")
    parser.add_argument("--out", type=Path, help="folder to write to")
    args = parser.parse_args(arguments)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    setting = Setting(device, QUICK if args.quick else GPU if device.type == "cuda" else CPU)
    console = Console(width=None if sys.stdout.isatty() else 160)
    facts = machine.about(device)
    for key, value in facts.items():
        console.print(f"{key:10}{value}", highlight=False)

    tables: list[Table] = []
    started = time.monotonic()
    for name in args.only or SECTIONS:
        begun = time.monotonic()
        found = SECTIONS[name](setting)
        for table in found:
            show(table, console)
        console.print(f"  [dim]{name}: {time.monotonic() - begun:.0f} s[/dim]")
        tables += found
    show(targets(tables), console)
    facts["duration"] = f"{time.monotonic() - started:.0f} s"
    console.print(f"duration  {facts['duration']}")
    whole = not args.quick and not args.only
    if folder := args.out or (REPOSITORY / "docs/benchmarks" if whole else None):
        write(folder, machine.file_name(device), facts, tables)
        console.print(f"written   {folder / machine.file_name(device)}.md and .json")
