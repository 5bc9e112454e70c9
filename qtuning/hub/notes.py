"""What tables say of revisions: which commits were used, and what is not pinned to one."""

from collections.abc import Iterable
from pathlib import Path

from qtuning.files import read_json
from qtuning.hub.repositories import Repository


def notes_of_revisions(hub: Path, repositories: Iterable[Repository] | None = None) -> list[str]:
    """A line with the commit of each repository that was fetched, and a line with those that are not pinned.

    hub: folder of the markers (fetch.py). repositories: those of an experiment; None, where its configuration is not at
    hand: all that were fetched for these results.
    """
    names = sorted(hub.glob("*.json")) if repositories is None else [hub / f"{r.identity}.json" for r in repositories]
    markers = [read_json(path) for path in dict.fromkeys(names) if path.is_file()]
    fetched = [(Repository.model_validate(marker["repository"]), marker["commit"][:12]) for marker in markers]
    moving = [
        f"{each} ({each.revision} was {commit} when it was fetched)" for each, commit in fetched if not each.pinned
    ]
    notes = []
    if fetched:
        notes.append(f"From the hub: {', '.join(f'{each} {commit}' for each, commit in fetched)}.")
    if moving:
        notes.append(
            f"Unpinned, so another fetch may give other files: {', '.join(moving)}; write the commit as revision."
        )
    return notes
