"""Snakemake removes nothing that another workflow has made in the same checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
RULES = {
    # the job fails, and meanwhile another workflow has made its output
    "fails": "echo of another workflow > {output}; exit 1",
    # as when another workflow begins to draw the same figures at the end of the job
    "draws": "mkdir {output}; (rm -r {output}; sleep 8; mkdir {output}) > /dev/null 2>&1 &",
}


def test_outputs_are_not_removed_when_a_job_starts() -> None:
    """`update`; Snakemake cannot keep a folder so."""
    blocks = [
        (file.name, block)
        for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
        for block in re.findall(r"^    output:\n((?:        .*\n)+)", file.read_text(), flags=re.MULTILINE)
    ]
    assert len(blocks) > 15
    for name, block in blocks:
        if "directory(" in block:
            continue
        assert len(re.findall(r"\bROOT\b", block)) == block.count("update("), f"{name}:\n{block}"


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_outputs_of_another_workflow_stay_and_are_waited_for(tmp_path: Path, rule: str) -> None:
    output = 'directory("made")' if rule == "draws" else 'update("made")'
    (tmp_path / "Snakefile").write_text(f"rule:\n    output: {output}\n    shell: {RULES[rule]!r}\n")
    profile = ["--workflow-profile", str(REPOSITORY / "profiles/default")]
    ended = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *profile],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode == 0) == (rule == "draws"), ended.stderr
    assert (tmp_path / "made").exists()
