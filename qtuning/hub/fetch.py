"""Fetches repositories once, on a machine with network, and notes the commit that each revision meant.

Files lie in the cache of huggingface_hub (HF_HOME). results/hub/REPOSITORY.json, the marker, is written last.
"""

import glob
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtuning.errors import UserError, one_line, raise_problems
from qtuning.experiment.ids import ResultPaths
from qtuning.files import read_json, write_json
from qtuning.hub.offline import go_offline
from qtuning.hub.repositories import Repository
from qtuning.locks import exclusive

# what is fetched of a model: weights as safetensors, configuration, tokenizer; no pickle, no code
WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "vocab.txt", "merges.txt"]
# folders hold other formats (onnx, original); consolidated files repeat the weights, tekken.json the tokenizer: with it
# and mistral-common, which vLLM installs, transformers would take a class without offsets
UNWANTED = ["*/*", "consolidated*", "tekken.json"]


@dataclass(frozen=True)
class Found:
    """What the hub has of a repository.

    commit: what its revision means now. sizes: bytes of the files that are wanted. data: how a data set is read (see
    `_data_files`), by subset.
    """

    repository: Repository
    commit: str
    sizes: dict[str, int]
    data: dict[str, Any] | None = None

    def to_fetch(self) -> int:
        """Bytes that are not in the cache."""
        from huggingface_hub import try_to_load_from_cache

        asked = self.repository
        return sum(
            size
            for name, size in self.sizes.items()
            if not isinstance(try_to_load_from_cache(asked.id, name, revision=self.commit, repo_type=asked.kind), str)
        )


def prefetch(repositories: Iterable[Repository], paths: ResultPaths) -> None:
    """Fetch what is not there yet. All repositories are looked at before the first is fetched.

    A revision is resolved once: where a marker is, its commit is fetched again if the cache has lost it. UserError with
    a line for each repository that cannot be had: gated, unknown, no such revision, no safetensors, no network.
    """
    found, problems = [], list[str]()
    for repository in dict.fromkeys(repositories):
        known = commit_of(repository, paths.hub)
        if known is not None and _in_cache(repository, paths.hub):
            print(f"{repository}: {known[:12]} is there", flush=True)
            continue
        try:
            found.append(look(repository, known))
        except UserError as error:
            problems.append(str(error))
    raise_problems(problems)
    _check_space(found)
    for number, each in enumerate(found, start=1):
        _download(each, paths, f"{number} of {len(found)}")


def ensure(repositories: Iterable[Repository | None], paths: ResultPaths) -> None:
    """Fetch what was never fetched, for commands that a user types; without network where nothing is missing."""
    wanted = [repository for repository in repositories if repository is not None]
    missing = [repository for repository in wanted if commit_of(repository, paths.hub) is None]
    if missing:
        prefetch(missing, paths)
    else:
        go_offline()


def check_access(repositories: Iterable[Repository], paths: ResultPaths) -> None:
    """UserError with a line for each repository that is not fetched and cannot be: before anything starts."""
    problems = []
    for repository in repositories:
        if commit_of(repository, paths.hub) is None:
            try:
                look(repository)
            except UserError as error:
                problems.append(str(error))
    raise_problems(problems)


def look(repository: Repository, commit: str | None = None) -> Found:
    """What the hub has of a repository at its revision, or at a commit. UserError if it cannot be had."""
    from huggingface_hub import HfApi, is_offline_mode

    if is_offline_mode():
        return _cached(repository, commit)
    api, kind = HfApi(), repository.kind
    with _refusals(repository):
        api.auth_check(repository.id, repo_type=kind)
        ask = api.model_info if kind == "model" else api.dataset_info
        info = ask(repository.id, revision=commit or repository.revision, files_metadata=True)
        assert info.sha is not None
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        if kind == "dataset":
            data = {subset: _data_files(repository.id, subset, info.sha) for subset in repository.subsets or ("",)}
            wanted = {name for part in data.values() for names in part["files"].values() for name in names}
            return Found(repository, info.sha, {name: sizes[name] for name in sorted(wanted)}, data)
    names = _wanted(sizes)
    if not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"{repository} ({repository.revision}): has no safetensors weights, and pickled ones are not read; convert "
            "it with save_pretrained and write its folder as `id` in the model's YAML"
        )
    return Found(repository, info.sha, {name: sizes[name] for name in names})


def commit_of(repository: Repository, hub: Path) -> str | None:
    """The commit that was fetched; None: none was. hub: folder of the markers."""
    path = hub / f"{repository.identity}.json"
    return str(read_json(path)["commit"]) if path.is_file() else None


def snapshot(repository: Repository, hub: Path | None) -> tuple[Path, dict[str, Any]]:
    """The folder of a fetched repository in the cache, and its marker. Uses no network.

    hub: folder of the markers. UserError where it was not fetched, or where the cache has lost a file.
    """
    path = None if hub is None else hub / f"{repository.identity}.json"
    if path is None or not path.is_file():
        raise UserError(
            f"{repository} (revision {repository.revision}): was not fetched ({path or 'results/hub'} is missing); "
            "type `qtuning prefetch EXPERIMENT` on a machine with network"
        )
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    marker = read_json(path)
    try:
        folder = snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=marker["commit"],
            allow_patterns=_exactly(marker["files"]),
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        raise UserError(
            f"{repository}: commit {marker['commit']} is not, or not all of it, in {constants.HF_HUB_CACHE}; type "
            "`qtuning prefetch EXPERIMENT` on a machine with network and the same HF_HOME"
        ) from None
    return Path(folder), marker


def _in_cache(repository: Repository, hub: Path) -> bool:
    try:
        snapshot(repository, hub)
    except UserError:
        return False
    return True


def _download(found: Found, paths: ResultPaths, number: str) -> None:
    """Fetch the wanted files (huggingface_hub shows its progress), and write the marker."""
    from huggingface_hub import snapshot_download

    repository = found.repository
    moving = "" if repository.pinned else f"{repository.revision}, which is now "
    size = f"{found.to_fetch() / 1e9:.2f} of {sum(found.sizes.values()) / 1e9:.2f} GB to fetch"
    print(f"{number}: {repository} at {moving}{found.commit[:12]}, {size}", flush=True)
    with exclusive(paths.lock(repository.identity), f"fetching {repository}"), _refusals(repository):
        snapshot_download(
            repository.id,
            repo_type=repository.kind,
            revision=found.commit,
            allow_patterns=_exactly(found.sizes),
        )
        marker = {
            "repository": repository.model_dump(mode="json"),
            "commit": found.commit,
            "files": sorted(found.sizes),
            "bytes": sum(found.sizes.values()),
            "data": found.data,
        }
        write_json(paths.hub / f"{repository.identity}.json", marker)


def _wanted(names: Iterable[str]) -> list[str]:
    """Those files of a model that are fetched."""
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    return list(filter_repo_objects(names, allow_patterns=WANTED, ignore_patterns=UNWANTED))


def _exactly(names: Iterable[str]) -> list[str]:
    """Patterns that match these names alone."""
    return [glob.escape(name) for name in names]


def _data_files(id: str, subset: str, commit: str) -> dict[str, Any]:
    """How `datasets` reads a subset: its builder (parquet, json, ...), features if the hub states them, and files.

    {"builder": NAME, "features": {...} | None, "files": {SPLIT: [file of the repository, ...]}}. Of a repository with
    several subsets only the files of this one are wanted: TriviaQA has nine, of which we read the smallest.
    """
    import datasets

    # the prefix, so that a folder of this name below the working directory is not taken for it
    builder = datasets.load_dataset_builder(f"hf://datasets/{id}", subset or None, revision=commit)
    files = {
        str(split): [str(name).partition(f"@{commit}/")[2] for name in names]
        for split, names in dict(builder.config.data_files or {}).items()
    }
    features = builder.info.features
    return {"builder": builder.name, "features": None if features is None else features.to_dict(), "files": files}


def _cached(repository: Repository, commit: str | None) -> Found:
    """A model that the cache holds already, for a machine that is kept offline (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    missing = UserError(
        f"{repository} (revision {repository.revision}): is not in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is "
        "set; unset it, or fetch with network and bring the folders HF_HOME and results/hub"
    )
    if repository.kind == "dataset":  # only the hub says which of its files belong to a subset
        raise missing
    try:
        folder = Path(
            snapshot_download(
                repository.id,
                revision=commit or repository.revision,
                allow_patterns=WANTED,
                ignore_patterns=UNWANTED,
                local_files_only=True,
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        raise missing from None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    # the cache names a snapshot's folder after its commit
    return Found(repository, folder.name, {name: sizes[name] for name in _wanted(sizes)})


def _check_space(found: Sequence[Found]) -> None:
    if not found:
        return
    from huggingface_hub import constants

    needed = sum(each.to_fetch() for each in found)
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    if needed > (free := shutil.disk_usage(existing).free):
        raise UserError(
            f"HF_HOME: {needed / 1e9:.1f} GB are to be fetched into {cache}, where {free / 1e9:.1f} GB are free; set "
            "HF_HOME to a folder on a larger disk"
        )


@contextmanager
def _refusals(repository: Repository) -> Iterator[None]:
    """What the hub refuses becomes one line that says what to do."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of whichever HTTP library it uses

    try:
        yield
    except errors.GatedRepoError:
        folder = "" if repository.kind == "model" else "datasets/"
        page = f"https://huggingface.co/{folder}{repository.id}"
        raise UserError(
            f"{repository} is gated; accept its licence at {page} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{repository}: has no revision {repository.revision!r}") from None
    # RuntimeError: a data set that comes as code
    except (OSError, ValueError, RuntimeError, HTTPError, DatasetsError, errors.RevisionResolutionError) as error:
        unanswered = isinstance(error, OSError | HTTPError) and getattr(error, "response", None) is None
        remedy = "; connect to the network, or bring along what was fetched elsewhere (docs/hub.md)" * unanswered
        raise UserError(
            f"{repository} (revision {repository.revision}): cannot be had from the Hugging Face hub: "
            f"{one_line(error)}{remedy}"
        ) from None
