"""Snakemake removes nothing that another workflow has made in the same checkout."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
MADE_ANEW = "tables.smk", "probe.smk"
"""Of what these rules make, Snakemake removes what is old. No digest would tell that it is."""


def test_outputs_are_not_removed_when_a_job_starts() -> None:
    """`update`, of all that cells share. Digests tell whether it is stale."""
    blocks = [
        (file.name, block)
        for file in sorted((REPOSITORY / "workflow/rules").glob("*.smk"))
        for block in re.findall(r"^    output:\n((?:        .*\n)+)", file.read_text(), flags=re.MULTILINE)
    ]
    assert len(blocks) > 15
    for name, block in blocks:
        if name in MADE_ANEW and not re.search(r"contamination|measured", block):
            continue
        assert len(re.findall(r"\bROOT\b", block)) == block.count("update("), f"{name}:\n{block}"


@pytest.mark.slow
def test_outputs_are_waited_for(tmp_path: Path) -> None:
    """As when another workflow, at the end of the job, begins to make the same table."""
    shell = "(sleep 8; touch {output}) > /dev/null 2>&1 &"
    (tmp_path / "Snakefile").write_text(f"rule:\n    output: 'made'\n    shell: {shell!r}\n")
    profile = ["--workflow-profile", str(REPOSITORY / "profiles/default")]
    ended = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *profile],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "made").exists()
