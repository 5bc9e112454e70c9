"""What the documents show works as shown."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from qtuning.pruners import base
from qtuning.scores import BatchScores

REPOSITORY = Path(__file__).parent.parent


def blocks(document: str, language: str) -> list[str]:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_pruner_of_the_document_prunes() -> None:
    code = next(block for block in blocks("docs/pruners.md", "python") if "def highest_entropy" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/pruners.md", "exec"), names)
    lengths = torch.tensor([2, 2, 2, 2])
    entropy = torch.tensor([1.0, 1.0, 3.0, 3.0, 2.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    candidates = base.Candidates(torch.arange(4), lengths, BatchScores(torch.ones(8).double(), entropy, lengths))
    selection = names["highest_entropy"](candidates, 0.5, torch.Generator(), {})
    assert selection.kept.tolist() == [False, True, True, False]


def test_experiment_of_the_readme_is_valid(tmp_path: Path) -> None:
    import shutil

    from qtuning.grid import Library

    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    (block,) = blocks("README.md", "yaml")
    (tmp_path / "configs/experiments/my-table.yaml").write_text(block)
    (grid,) = Library(tmp_path / "configs").experiments(["my-table"])
    # zero-shot, and 3 seeds of full data, and of random+random and two q-tunings at two budgets
    assert len(grid.cells) == 1 + 3 * (1 + 2 * 3)


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    text = (REPOSITORY / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((REPOSITORY / document).parent / target).exists(), target
