"""The committed example is what the committed store gives, byte for byte."""

import re
from pathlib import Path

import pytest

from qtuning.results.report import write_report

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "docs/example"


def drawn(folder: Path) -> dict[str, Path]:
    """Everything below a folder but its README and the store."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: path for path in files if not (name := str(path.relative_to(folder))).startswith(("store/", "README.md"))
    }


@pytest.mark.slow
def test_the_example_is_drawn_from_its_store(tmp_path: Path) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    (experiments,) = re.findall(r"^EXAMPLE := (.*)$", makefile, flags=re.MULTILINE)
    write_report(experiments.split(), EXAMPLE / "store", tmp_path)
    made, committed = drawn(tmp_path), drawn(EXAMPLE)
    assert made.keys() == committed.keys()
    assert len(made) > 100
    assert [name for name in made if made[name].read_bytes() != committed[name].read_bytes()] == []
