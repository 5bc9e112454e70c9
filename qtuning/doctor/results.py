"""A results folder: what is unfinished, damaged or left over, and the repairs that cannot lose a result.

Jobs may be at work there: files and folders come and go while they are looked at.
"""

import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import polars as pl
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from qtuning.data.samples import check_samples
from qtuning.doctor.finding import Finding
from qtuning.errors import UserError
from qtuning.experiment.cell import Cell
from qtuning.experiment.ids import ResultPaths, cell_json
from qtuning.files import LEFTOVERS, file_digest, read_json
from qtuning.locks import exclusive, is_held, remove_lock
from qtuning.manifest import read_sealed
from qtuning.model.load import MARKER, check_folder, model_path
from qtuning.store.intact import SCORES, Unverified, check_cell, check_scores
from qtuning.train.checkpoint import DAMAGE, checkpoints_of, verified

UNTOUCHED = 3600.0  # seconds after which a temporary file of nobody at work is a leftover
AGAIN = "the same `snakemake` command again"


def look_at_results(paths: ResultPaths, thorough: bool = False) -> Iterator[Finding]:
    """Findings below the results folder. thorough: files are compared with the digests of what was written, too."""
    root = paths.root
    if not root.is_dir():
        yield Finding("ok", f"{root}: nothing here yet")
        return
    locks = sorted([*root.glob("locks/*.lock"), *root.glob("state/*.lock")])
    held = [path for path in locks if is_held(path)]
    if held:
        yield Finding("note", f"{len(held)} job(s) at work here now: {', '.join(path.stem for path in held[:5])}")
    cells = sorted(path for path in root.glob("cells/*") if path.is_dir())
    finished = sum((folder / "train.json").exists() for folder in cells)
    yield Finding("ok", f"{root}: {len(cells)} cell(s), {finished} of them trained")
    for folder in sorted(path for path in root.glob("state/*") if path.is_dir()):
        yield from _look_at_state(folder, paths, at_work=folder.with_name(f"{folder.name}.lock") in held)
    for folder in cells:
        at_work = any(path.stem.startswith(folder.name) for path in held)
        yield from _look_at_cell(folder, thorough and not at_work)
    for marker in sorted(root.glob(f"models/*/{MARKER}")):
        yield from _look_at_model(marker)
    for folder in sorted(path for path in root.glob("train_sets/*") if path.is_dir()):
        damaged = list(_look_at_files(folder, ["report.json"], ["samples.parquet"]))
        yield from damaged or (_compare(partial(check_samples, folder)) if thorough else ())
    yield from _look_at_files(root, [str(path.relative_to(root)) for path in root.glob("contamination/*.json")], [])
    yield from _look_at_leftovers(root, at_work=bool(held))
    if idle := [path for path in locks if path not in held]:
        yield Finding(
            "note", f"{len(idle)} lock file(s) that nobody holds; they are harmless", "", partial(_free, idle)
        )


def _look_at_state(folder: Path, paths: ResultPaths, at_work: bool) -> Iterator[Finding]:
    """The resume state of a training."""
    if at_work:
        return
    update = None
    for path in checkpoints_of(folder):
        try:
            state = verified(path)
        except DAMAGE as error:
            text = f"{path}: damaged checkpoint ({error}); resuming passes over it"
            yield Finding("problem", text, "qtuning doctor --repair removes it", partial(_remove, path, folder))
            continue
        update = state["update"]
        expected = _configured(paths.configuration(folder.name.removesuffix("-measured")))
        if expected is not None and state["cell"] != expected:
            text = f"{folder}: is of another configuration than this version has for the cell; resuming refuses it"
            move = partial(_move_away, folder, paths.root / "refused" / folder.name)
            yield Finding("problem", text, "qtuning doctor --repair moves it to results/refused", move)
            return
    if update is None and not (folder / "metrics.jsonl").exists():
        return  # of no training: replies of vLLM that an older version kept there, marks of what is stale
    age = (time.time() - folder.stat().st_mtime) / 3600
    where = "before its first checkpoint" if update is None else f"after update {update}"
    yield Finding(
        "note", f"{folder.name}: training stopped {where}, {age:.1f} hours ago", f"{AGAIN} goes on from there"
    )


def _configured(path: Path) -> str | None:
    """What a checkpoint of that cell says of it; None where the configuration is not there, or cannot be read."""
    try:
        return cell_json(Cell.model_validate_json(path.read_text(encoding="utf-8")))
    except (OSError, ValidationError, UserError):
        return None


def _look_at_cell(folder: Path, thorough: bool) -> Iterator[Finding]:
    marker = folder / "train.json"
    if (folder / "failed.json").exists() and not marker.exists():
        reason = _reason(folder / "failed.json")
        yield Finding("problem", f"{folder.name}: failed: {reason}", f"mend the cause, then {AGAIN}")
    inside = [path.relative_to(folder) for path in _below(folder)]
    finished = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    jsons = [str(path) for path in finished if path.suffix == ".json" and "weights" not in path.parts]
    parquets = [str(path) for path in finished if path.suffix == ".parquet"]
    damaged = list(_look_at_files(folder, sorted(jsons), sorted(parquets)))
    yield from damaged
    if thorough and not damaged:
        yield from _compare(partial(check_cell, folder, Unverified()))
        for scores in sorted(folder.glob(f"*/{SCORES}")):
            yield from _compare(partial(check_scores, scores.parent, Unverified()))
    if marker.exists() and _reason(marker, "status") == "diverged":
        yield Finding("note", f"{folder.name}: diverged: {_reason(marker)}; its scores are holes in the tables")
    if marker.exists() and (folder / "weights").is_dir() and (problem := _weights_problem(folder, thorough)):
        advice = f"delete {marker} and {folder / 'weights'}, then {AGAIN}"
        yield Finding("problem", f"{folder.name}: weights: {problem}", advice)


def _reason(path: Path, key: str = "reason") -> str:
    try:
        return str(read_json(path).get(key))
    except (OSError, ValueError, AttributeError):
        return f"{path} cannot be read"


def _weights_problem(folder: Path, thorough: bool) -> str | None:
    """What is wrong with the weights of a trained cell, against the digests that training wrote."""
    try:
        lines = (folder / "weights.sha256").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "weights.sha256 is missing"
    for digest, _, name in (line.partition("  ") for line in lines):
        path = folder / "weights" / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            with safe_open(path, framework="np"):  # reads the header, and refuses a file that is cut off
                pass
        except (OSError, SafetensorError) as error:
            return f"{name} is damaged ({error})"
        if thorough and file_digest(path) != digest:
            return f"{name} is damaged (its digest differs)"
    return None


def _compare(check: Callable[[], object]) -> Iterator[Finding]:
    """A finding where `check` raises UserError, whose message ends in what to do."""
    try:
        check()
    except UserError as error:
        problem, _, advice = str(error).partition("; ")
        yield Finding("problem", problem, advice)


def _look_at_files(folder: Path, jsons: list[str], parquets: list[str]) -> Iterator[Finding]:
    for name in [*jsons, *parquets]:
        path = folder / name
        try:
            read_sealed(path, "") if path.suffix == ".json" else pl.read_parquet_schema(path)
        except FileNotFoundError:
            continue  # not made yet, which the workflow sees by itself
        except UserError as error:
            yield Finding("problem", str(error).removesuffix("; "), f"delete it, then {AGAIN}")
        except (OSError, pl.exceptions.PolarsError) as error:
            yield Finding("problem", f"{path}: damaged ({str(error)[:80]})", f"delete it, then {AGAIN}")


def _look_at_model(marker: Path) -> Iterator[Finding]:
    try:
        check_folder(model_path(marker.parent))
    except (UserError, OSError, ValueError, KeyError) as error:
        yield Finding("problem", f"{marker}: {error}", f"delete it, then {AGAIN}")


def _look_at_leftovers(root: Path, at_work: bool) -> Iterator[Finding]:
    """Temporary files that killed writers left. Where a job is at work they may be its own."""
    every = list(_below(root))
    for path in sorted(path for path in every if any(fnmatch.fnmatch(path.name, pattern) for pattern in LEFTOVERS)):
        if _last_touched(path) < time.time() - UNTOUCHED:
            fix = None if at_work else partial(_delete, path)
            advice = "no job must be at work here for --repair to remove it" if at_work else "qtuning doctor --repair"
            yield Finding("note", f"{path}: left by a writer that was killed", advice, fix)


def _last_touched(path: Path) -> float:
    found = []
    for each in (path, *_below(path)):
        with suppress(FileNotFoundError):
            found.append(each.lstat().st_mtime)
    return max(found, default=time.time())


def _below(folder: Path) -> Iterator[Path]:
    """Files and folders below a folder. Unlike `rglob` it bears that one goes while it looks."""
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))


def _delete(path: Path) -> str:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return f"removed {path}"


def _remove(checkpoint: Path, state: Path) -> str:
    with _alone_with(state) as alone:
        return _delete(checkpoint) if alone else ""


def _move_away(state: Path, target: Path) -> str:
    """Move a state that resuming refuses to where nothing looks for it."""
    with _alone_with(state) as alone:
        if not alone:
            return ""
        target.parent.mkdir(parents=True, exist_ok=True)
        number = sum(path.name.startswith(f"{target.name}-") for path in target.parent.iterdir())
        moved = state.rename(target.with_name(f"{target.name}-{number}"))
        return f"moved {state} to {moved}"


@contextmanager
def _alone_with(state: Path) -> Iterator[bool]:
    """Hold the lock of a training; False if its job is at work."""
    lock = state.with_name(f"{state.name}.lock")
    if is_held(lock):
        yield False
        return
    with exclusive(lock, f"repairing {state.name}"):
        yield True
    remove_lock(lock)


def _free(locks: list[Path]) -> str:
    removed = sum(remove_lock(path) for path in locks)
    return f"removed {removed} lock file(s) that nobody held" if removed else ""
