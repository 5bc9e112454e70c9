"""Settings of the workflow: each is taken as its key's type, however Snakemake reads it; and from any folder."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from snakemake.cli import parse_config

from qtuning.errors import UserError
from qtuning.workflow.inputs import load_inputs
from qtuning.workflow.settings import configs_folder, read_settings

REPOSITORY = Path(__file__).parent.parent
FILE = REPOSITORY / "configs/config.yaml"


def read(*entries: str, files: list[Path] | None = None) -> dict[str, Any]:
    """As the Snakefile does, with what Snakemake makes of the same command line."""
    arguments = ["--cores", "1", *(["--configfile", *map(str, files)] if files else []), "--config", *entries]
    return read_settings(parse_config(entries), FILE, arguments)


def test_the_defaults() -> None:
    assert read() == {
        "results": "results",
        "data_dir": None,
        "tracking": "auto",
        "processes": 1,
        "parallel": "auto",
        "recompute": "auto",
        "threads": 1,
        "checkpoint_seconds": 60,
        "warm": True,
        "vllm": None,
        "machine": "a100",
        "time_limit": None,
    }


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *[
            (f"results={name}", name)
            for name in ("20241128", "2024_11", "010", "1e3", "True", "no", "a=b", "1.50", "0x1F")
        ],
        *[(f"data_dir={word}", None) for word in ("null", "~", "None", "", "NULL")],
        ("data_dir=2024", "2024"),
        ("data_dir=~/data", str(Path.home() / "data")),
        *[(f"warm={word}", False) for word in ("false", "False", "no", "off", "FALSE")],
        *[(f"warm={word}", True) for word in ("true", "True", "yes", "on")],
        ("warm=2", "2"),
        *[(f"tracking={word}", "disabled") for word in ("off", "no", "false", "disabled")],
        ("processes=8", 8),
        ("processes=08", "08"),
        ("processes=true", "true"),
        ("threads=1_0", "1_0"),
        ("checkpoint_seconds=0.5", 0.5),
        ("time_limit=null", None),
        ("time_limit=30", 30),
    ],
)
def test_a_setting_is_taken_as_it_is_typed(entry: str, value: Any) -> None:
    found = read(entry)[entry.partition("=")[0]]
    assert found == value and type(found) is type(value)


def test_files_of_settings_keep_spellings_and_the_command_line_comes_last(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("results: 2024_11\nwarm: no\ntracking: disabled\nprocesses: 4\n")
    found = read("tracking=offline", files=[own])
    assert (found["results"], found["warm"], found["tracking"], found["processes"]) == ("2024_11", False, "offline", 4)


def test_other_programs_give_settings_as_they_are() -> None:
    """pytest is no `snakemake`: what it was typed is not read."""
    found = read_settings({"results": 20241128, "warm": "false", "data_dir": None, "threads": 2}, FILE)
    assert found == {"results": "20241128", "warm": False, "data_dir": None, "threads": 2}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("results=null", "results = null: must be given"),
        ("results=", "results = nothing: must be given"),
        ("results=a\tb", r"holds characters that no name may have"),
        ("results=a\udcff", r"results = 'a\udcff': holds characters"),
        ("results=a{b}", "results = a{b}: { and } mean wildcards in Snakemake"),
        ("results={a", "name another folder"),
        ("results=[a, b]", ""),
    ],
)
def test_what_is_no_setting(entry: str, said: str) -> None:
    if not said:  # a name like any other
        assert read(entry)["results"] == "[a, b]"
        return
    with pytest.raises(UserError) as error:
        read(entry)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("processes=08", "processes = '08': must be a whole number"),
        ("threads=true", "threads = 'true': must be a whole number"),
        ("warm=2", "warm = '2': must be true or false"),
        ("warm=maybe", "warm = 'maybe': must be true or false"),
        ("data_dir=nowhere", "nowhere': no such folder"),
    ],
)
def test_wrong_settings_are_told_as_typed(entry: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        load_inputs(read("warm=false", entry), REPOSITORY / "configs")
    assert said in str(error.value)


def test_configs_of_the_folder_come_before_those_beside_the_snakefile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QTUNING_CONFIGS", "")
    monkeypatch.delenv("QTUNING_CONFIGS")
    (tmp_path / "configs/experiments").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^configs/config\.yaml: no such file; run snakemake in a clone"):
        configs_folder(REPOSITORY)
    (tmp_path / "configs/config.yaml").touch()
    assert configs_folder(REPOSITORY) == Path("configs")
    (tmp_path / "configs/experiments").rmdir()
    assert configs_folder(REPOSITORY) == REPOSITORY / "configs", "and its jobs find it"
    assert configs_folder(tmp_path) == REPOSITORY / "configs"
    monkeypatch.delenv("QTUNING_CONFIGS")
    with pytest.raises(UserError, match="a clone of the repository, or elsewhere with -s CLONE/Snakefile"):
        configs_folder(tmp_path / "beside a link")


@pytest.mark.slow
def test_snakemake_runs_from_another_folder_and_keeps_spellings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "-n", "--cores", "1"]
    command += ["mini-methods", "--config", "results=2024_11", "warm=false", "data_dir=null"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "2024_11/tables/mini-methods.md" in result.stdout + result.stderr
    assert not (tmp_path / "results").exists() and not (tmp_path / "202411").exists()
