"""Pages of kinds of tokens and of time and memory: their numbers against sums by hand; figures of both."""

import json
from pathlib import Path
from statistics import fmean

import polars as pl
import pytest
from cell_folders import CONFIGS, Folders

from qtuning.data.kinds import KINDS
from qtuning.experiment.cell import Cell
from qtuning.experiment.grid import ConfigFolder
from qtuning.experiment.ids import cell_id
from qtuning.figures.watched import over_seeds_by_share
from qtuning.files import write_json, write_text
from qtuning.manifest import write_sealed
from qtuning.paper.efficiency import efficiency_files, efficiency_of_lines
from qtuning.paper.token_kinds import kinds_of_lines, token_kind_files
from qtuning.plan.efficiency import plan_of_the_paper
from qtuning.report.build import write_report
from qtuning.store.store import Store, export_store, write_store


def folders_of(name: str, root: Path) -> Folders:
    (grid,) = ConfigFolder(CONFIGS).expand([name])
    return Folders(root, grid)


def observe(folders: Folders, cell: Cell, seed: int) -> None:
    """watch.jsonl and token_kinds.json, as training and the probe write them."""
    looks = [
        {"update": 8 * n, "done": n / 4, "epoch": n // 2, "sample": [3, 5, 9]}
        | {"ppl": [2.0, 4.0 + seed, 9.0 / (n + 1)], "entropy": [0.5, 1.0, 1.5 + seed]}
        for n in range(5)
    ]
    looks[3]["ppl"] = [None, 1.0, 2.0] if seed == 1 else looks[3]["ppl"]
    write_text(folders.folder(cell) / "watch.jsonl", "".join(json.dumps(look) + "\n" for look in looks))
    counts = [
        {"epoch": epoch, "supplement": supplement, "kept": [1, 2, 3, 4, 5, 5], "pruned": [seed, 4, 6, 8, 10, 12]}
        for epoch in (0, 1)
        for supplement in (False, True)
    ]
    answer = {"cell": cell_id(cell), "kinds": KINDS, "counts": counts}
    write_sealed(folders.folder(cell) / "token_kinds.json", answer)


def test_kinds_and_looks_from_cells_to_pages_and_figures(tmp_path: Path) -> None:
    folders = folders_of("fig8-mini", tmp_path / "results")
    for cell in folders.grid.cells:
        assert cell.seeds is not None
        folders.train(cell)
        observe(folders, cell, cell.seeds.data)
    write_store([folders.grid], folders.results)
    store = Store(folders.results)
    frame = kinds_of_lines(store.token_kinds, store.cells_of("fig8-mini"))
    assert len(frame) == 5 * 6 and frame["missing"].sum() == 0
    gold = frame.filter((pl.col("kind") == "gold-answer-spans") & (pl.col("method") == "q-tuning")).row(0, named=True)
    assert gold["kept"] == pytest.approx(100 * 1 / 20) and gold["kept_sd"] == 0
    assert gold["pruned"] == pytest.approx(fmean([0, 100 * 1 / 41, 100 * 2 / 42]))
    assert (gold["pruned_tokens"], gold["kept_tokens"]) == (4 * 1, 4)
    assert gold["pruned_of_kind"] == pytest.approx(100 * 4 / 8)
    assert (gold["pruned_published"], gold["kept_published"]) == (2.7, 3.5)
    others = frame.filter(pl.col("method") != "q-tuning")
    assert others["pruned_published"].is_null().all(), "the paper counted Q-Tuning's tokens alone"
    page = token_kind_files(store.token_kinds, store.cells_of("fig8-mini"))
    assert page is not None and len(page.page.tables[0].blocks) == 5
    for _, part in frame.group_by("label"):
        assert part["kept"].sum() == pytest.approx(100)

    looks = store.watched.filter(pl.col("cell") == cell_id(folders.find("q-tuning-12.5x50-s1")))
    assert looks["ppl"].to_list()[0] == pytest.approx((2 + 5 + 9) / 3) and looks["ppl_median"][0] == 5.0
    assert looks["ppl"].null_count() == 1 and looks["entropy"].null_count() == 0
    both = store.watched.filter(pl.col("cell").is_in([cell_id(folders.find(f"q-tuning-12.5x50-s{n}")) for n in (0, 1)]))
    over = over_seeds_by_share(both)
    assert over["ppl"].to_list()[0] == pytest.approx(fmean([15 / 3, 16 / 3])) and over["ppl"][3] is None
    assert (over["ppl_low_seed"][0], over["ppl_high_seed"][0]) == (pytest.approx(5), pytest.approx(16 / 3))

    report = write_report(["fig8-mini"], folders.results, tmp_path / "report").read_text(encoding="utf-8")
    assert "kinds of pruned and of kept tokens" in report
    captions = json.loads((tmp_path / "report/figures/fig8-mini/captions.json").read_text(encoding="utf-8"))
    assert {"token-kinds", "watched"} <= set(captions)
    assert "3 training samples" in captions["watched"] and "15 cells" in captions["watched"]
    export_store(["fig8-mini"], folders.results, tmp_path / "copy")
    assert Store(tmp_path / "copy").watched.equals(store.watched)
    assert not (tmp_path / "copy/measured.parquet").exists() and Store(tmp_path / "copy").measured.is_empty()


def test_time_and_memory_from_cells_to_the_page(tmp_path: Path) -> None:
    folders = folders_of("table6-mini", tmp_path)
    for cell in folders.grid.cells:
        assert cell.seeds is not None and cell.pruning is not None
        seed, ratio = cell.seeds.data, cell.pruning.sample_ratio
        cost = {"seconds_scoring": 5.0, "seconds_token_selection": 1.0, "seconds_training": 20 * ratio}
        cost |= {"seconds_total": 10 + 20 * ratio + seed, "peak_memory_bytes": 2 * 2**30}
        where = {"device_name": "CPU", "device": "cpu", "processes": 2, "threads": 1, "load_before": 0.5 + seed}
        marker = {"status": "done", "cost": cost, "provenance": where | {"device_memory_bytes": 4 * 2**30}}
        write_json(folders.folder(cell) / "measured.json", marker)
    write_store([folders.grid], tmp_path)
    store = Store(tmp_path)
    planned = plan_of_the_paper(CONFIGS)
    assert set(planned) == {(0.125, 0.5), (0.25, 0.5), (0.5, 0.5), (1.0, 1.0)}
    frame = efficiency_of_lines(store.measured, store.cells_of("table6-mini"), planned)
    assert frame["budget"].to_list() == ["12.5% x 50%", "25% x 50%", "50% x 50%", "100% x 100%"]
    first = frame.row(0, named=True)
    assert (first["seconds_sample_selection"], first["seconds_token_selection"]) == (4.0, 1.0)
    assert first["seconds_total"] == pytest.approx(12.5 + fmean([0, 1, 2]))
    assert first["share_of_full"] == pytest.approx(fmean([12.5 / 30, 13.5 / 31, 14.5 / 32]))
    assert (first["peak_memory_bytes"], first["memory_percent"]) == (2**30, 25.0)
    assert (first["published_sample_selection"], first["published_total"]) == (35.88, 65.0)
    assert frame["published_share_of_full"].to_list() == pytest.approx([65 / 90, 70 / 90, 80 / 90, 1])
    assert frame["planned_share_of_full"][3] == 1.0 and 0 < frame["planned_share_of_full"][0] < 1
    page = efficiency_files(store.measured, store.cells_of("table6-mini"), planned)
    assert page is not None
    text = page.texts["efficiency.md"](page.page)
    assert "load average was at most 2.5" in text and "0.72" in text and "Sample selection s" in text

    (folders.folder(folders.find("full-s0")) / "measured.json").unlink()
    write_store([folders.grid], tmp_path)
    store = Store(tmp_path)
    frame = efficiency_of_lines(store.measured, store.cells_of("table6-mini"))
    assert frame["missing"].to_list() == [0, 0, 0, 1] and frame["seconds_total"].null_count() == 1
    assert frame["share_of_full"].null_count() == 4, "no share of a training that is missing"
    for cell in folders.grid.cells:
        (folders.folder(cell) / "measured.json").unlink(missing_ok=True)
    write_store([folders.grid], tmp_path)
    assert not (tmp_path / "measured.parquet").exists()
    assert efficiency_files(Store(tmp_path).measured, Store(tmp_path).cells_of("table6-mini")) is None
