"""Finds the files that are one set: a single one, those that a pattern fits, or the shards in a folder."""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from qtuning.data.containers import CSV, SUFFIXES
from qtuning.errors import UserError

_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json", "config.json")
"""Files beside the rows, which say something about them."""
_NAME = rf"({'|'.join(map(re.escape, (*SUFFIXES, *CSV)))})(\.(gz|bz2|xz|zst))?$"
_SHARD = r"(.*?)[-_.]?(\d+)[-_.]of[-_.](\d+)(.*)"
_TEST = {"test", "validation", "valid", "val", "dev", "eval"}


def find_files(path: Path) -> list[Path]:
    """The files that a path, pattern or folder names, by their names; numbers in these are ordered as numbers.

    FileNotFoundError if there are none. UserError if a folder holds several sets, or shards of one are missing.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        return _in_folder(path)
    found = sorted(map(Path, glob.glob(str(path), recursive=True)), key=_order) if glob.has_magic(str(path)) else []
    files = [file for file in found if file.is_file()]
    if not files:
        raise FileNotFoundError(path)
    _check_are_rows(files, path)
    _check_one_split(files)
    _check_once(files)
    _check_complete(files)
    return files


def _in_folder(folder: Path) -> list[Path]:
    suffixes = (*SUFFIXES, *CSV)
    visible = sorted((file for file in folder.iterdir() if file.is_file() and file.name[0] not in "._"), key=_order)
    files = [file for file in visible if file.name.lower().endswith(suffixes) and file.name not in _ABOUT]
    if not files:
        arrow = any(file.suffix == ".arrow" for file in (*visible, *folder.glob("*/*.arrow")))
        why = "holds Arrow files; save the set with `to_parquet`" if arrow else "is a folder without files of rows"
        inside = sorted({file.parent for file in folder.glob("*/*") if file.name.lower().endswith(suffixes)})
        if inside and not arrow:
            raise UserError(f"{folder}: {why}; name the folder that has them, e.g. {inside[0]}")
        raise UserError(f"{folder}: {why}" + ("" if arrow else f"; known: {', '.join(suffixes)}"))
    # one set has one name, but for the numbers of its shards
    sets = {re.sub(r"\d+", "*", file.name): file.name for file in files}
    if len(sets) > 1:
        shown = ", ".join(list(sets.values())[:4])
        pattern = next((name for name in sets if "train" in name.lower()), next(iter(sets)))
        raise UserError(f"{folder}: holds more than one set ({shown}); name a file or a pattern ({folder}/{pattern})")
    _check_complete(files)
    return files


def _check_are_rows(files: Sequence[Path], pattern: Path) -> None:
    """UserError if a pattern takes more than files of rows: what stands beside them, backups, unfinished downloads."""
    rows = [file for file in files if re.search(_NAME, file.name.lower()) and file.name not in _ABOUT]
    if rows and len(rows) < len(files):
        other = next(file for file in files if file not in rows)
        suffix = re.sub(r"^[^.]*", "", rows[0].name)
        raise UserError(
            f"{pattern}: takes {other.name}, too, by its name no file of rows; write the suffix, e.g. *{suffix}"
        )


def _check_one_split(files: Sequence[Path]) -> None:
    """UserError if a pattern takes what a model is tested on together with what it is trained on."""
    words = {file: set(re.split(r"[^a-z]+", file.name.lower())) for file in files}
    train = next((file for file, found in words.items() if "train" in found), None)
    other = next((file for file, found in words.items() if found & _TEST and "train" not in found), None)
    if train is not None and other is not None:
        raise UserError(f"{train} and {other.name}: are different splits, and the pattern takes both; write train*")


def _check_once(files: Sequence[Path]) -> None:
    """UserError if two files differ in their suffix alone: most likely one set, saved in two forms."""
    seen: dict[str, Path] = {}
    for file in files:
        name = re.sub(
            rf"({'|'.join(map(re.escape, sorted((*SUFFIXES, *CSV), key=len, reverse=True)))})$", "", str(file)
        )
        if (other := seen.setdefault(name, file)) != file:
            raise UserError(f"{other} and {file.name}: the pattern takes both; write the suffix of one form behind it")


def others_of(files: Sequence[Path]) -> str | None:
    """A pattern for all shards of a set, if only one was named: whoever does so may not know of the others."""
    name = files[0].name
    shard = re.fullmatch(_SHARD, name) if len(files) == 1 else None
    return None if shard is None or int(shard[3]) <= 1 else f"{name[: shard.start(2)]}*{name[shard.end(2) :]}"


def _check_complete(files: Sequence[Path]) -> None:
    """UserError if shards called NAME-0000I-of-0000N are not all there, or are of two sets."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if (shard := re.fullmatch(_SHARD, file.name)) is not None:
            before, number, count, behind = shard.groups()
            numbers.setdefault((f"{file.parent}/{before}*{behind}", int(count)), set()).add(int(number))
    counts = dict[str, int]()
    for (name, count), there in numbers.items():
        if counts.setdefault(name, count) != count:
            raise UserError(f"{name}: shards of two sets, of {counts[name]} and of {count}; keep those of one")
        if len(there) < count:
            raise UserError(
                f"{name}: {count - len(there)} of {count} shards are missing; fetch them, or rename the others"
            )


def _order(file: Path) -> list[tuple[int, str]]:
    """Text by its letters, numbers by their size."""
    parts = re.split(r"(\d+)", str(file))
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)]
