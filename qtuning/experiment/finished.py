"""What a training left in its cell's folder: the marker train.json, and the files whose digests it holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtuning.errors import UserError
from qtuning.manifest import FILES, check_files, read_sealed, tell_unverified

MARKER, DIGESTS, WEIGHTS = "train.json", "weights.sha256", "weights"


def marker_of(folder: Path, name: str = MARKER, cell: str | None = None) -> dict[str, Any]:
    """train.json or measured.json of a cell's folder.

    cell: whose it must be. FileNotFoundError if it is not there; UserError if it is damaged, or another cell's.
    """
    marker = read_sealed(folder / name, _again(folder, name))
    if cell is not None and (found := marker.get("cell", cell)) != cell:
        raise UserError(f"{folder / name}: cell = {found!r}: is a result of another cell; {_again(folder, name)}")
    return marker


def check_outputs(folder: Path, *parts: str, marker: dict[str, Any] | None = None) -> None:
    """UserError unless these parts of a trained cell are as its training left them.

    parts: names in the folder; of a folder such as `weights`, all files that training wrote there, and the list of
    their digests. marker: of the cell, if it has been read. An older version left that list alone, which is compared.
    """
    marker = marker_of(folder) if marker is None else marker
    known = marker.get(FILES)
    if known is None:
        known = dict(_digests_of_weights(folder))
        if set(parts) != {WEIGHTS}:
            tell_unverified(str(folder))
    wanted = {*parts, DIGESTS} if WEIGHTS in parts else {*parts}
    chosen = {name: digest for name, digest in known.items() if name.partition("/")[0] in wanted}
    check_files(folder, chosen, _again(folder, MARKER))


def _digests_of_weights(folder: Path) -> Iterator[tuple[str, str]]:
    if (file := folder / DIGESTS).exists():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            yield f"{WEIGHTS}/{name}", digest


def _again(folder: Path, name: str) -> str:
    return f"delete {folder / name}: the same `snakemake` command then trains the cell anew"
