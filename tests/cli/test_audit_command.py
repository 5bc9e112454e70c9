"""`qtuning audit` as it is typed: exit status, what it prints, what it names."""

import json

import pytest
import typer
from typer.testing import CliRunner

from qtuning.cli.audit import audit
from qtuning.errors import UserError
from qtuning.paper.reference import PAPER


@pytest.fixture
def run(tmp_path):
    app = typer.Typer()
    app.command()(audit)
    return lambda *arguments: CliRunner().invoke(app, ["--store", str(tmp_path), *map(str, arguments)])


def test_the_shipped_claims_agree(run):
    result = run()
    assert result.exit_code == 0, result.output
    assert "10 of 10 verdicts are as the file states them" in result.output
    assert "published scores alone" in result.output
    assert "3 of 265 printed averages are not the mean" in result.output


def test_a_folder_that_was_named_must_exist(run, tmp_path):
    result = run("--store", tmp_path / "nowhere")
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("nowhere': no such folder; leave it out for the published scores alone")


def test_without_a_store_it_is_the_published_scores_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(audit)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0, result.output
    assert "results/scores.parquet: no such file; published scores alone" in result.output


def test_a_changed_number_is_status_1_and_named(run, tmp_path):
    scores = tmp_path / "scores.csv"
    text = (PAPER / "reference_scores.csv").read_text()
    line = "1,wizardlm,pruned,12.5,50.0,llama2-7b,q-tuning,q-tuning,avg,37.74"
    assert line in text
    scores.write_text(text.replace(line, line.replace("37.74", "38.54")))
    result = run("--scores", scores)
    assert result.exit_code == 1
    assert "llama2-12x50-margin: the file says contradicted, the numbers say holds" in result.output
    report = json.loads(run("--scores", scores, "--json").stdout)
    assert (report["agrees"], report["differing"]) == (False, ["llama2-12x50-margin"])


def test_a_verdict_that_is_claimed_wrongly_is_status_1(run, tmp_path):
    claims = tmp_path / "claims.yaml"
    claims.write_text((PAPER / "claims.yaml").read_text().replace("verdict: partly", "verdict: holds"))
    result = run("--claims", claims)
    assert result.exit_code == 1
    assert "averages-table2: the file says holds, the numbers say partly" in result.output


def test_a_malformed_file_is_the_users_error(run, tmp_path):
    claims = tmp_path / "claims.yaml"
    claims.write_text("- id: a\n  clam: b\n")
    result = run("--claims", claims)
    assert isinstance(result.exception, UserError)
    assert f"{claims}: claim a: clam: unknown key; did you mean claim?" in str(result.exception)
