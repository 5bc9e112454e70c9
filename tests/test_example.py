"""The committed example is what the committed store gives, byte for byte.

The digests of all its files are pinned, so that most of them need not lie in the repository. A change that is meant to
change them renews the pin: `make example`.
"""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from qtuning.report.build import write_report

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "docs/example"
PIN = REPOSITORY / "tests/pins/example.sha256"


def digests(folder: Path) -> dict[str, str]:
    """Of everything below a folder but its README and the store."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("store/", "README.md")):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def pinned() -> dict[str, str]:
    return {name: digest for digest, name in (line.split("  ") for line in PIN.read_text().splitlines())}


def test_what_is_committed_is_of_the_pinned_drawing() -> None:
    listed = subprocess.run(["git", "ls-files", "."], cwd=EXAMPLE, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.splitlines() if not name.startswith(("store/", "README.md"))]
    assert len(names) > 5
    drawn, pins = digests(EXAMPLE), pinned()
    assert [name for name in names if drawn[name] != pins[name]] == []


@pytest.mark.slow
def test_the_example_is_drawn_from_its_store(tmp_path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    (experiments,) = re.findall(r"^EXAMPLE := (.*)$", makefile, flags=re.MULTILINE)
    write_report(experiments.split(), EXAMPLE / "store", tmp_path)
    made, expected = digests(tmp_path), pinned()
    assert made.keys() == expected.keys()
    assert len(made) > 40
    assert (tmp_path / "report.html").stat().st_size < 3_000_000, "a page that can be sent"
    assert [name for name in made if made[name] != expected[name]] == []
