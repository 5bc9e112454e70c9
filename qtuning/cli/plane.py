"""`qtuning plane MODEL DATA`: the Error-Uncertainty plane of any model on any SFT file."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qtuning.errors import UserError

if TYPE_CHECKING:
    from qtuning.experiment.grid import ConfigFolder
    from qtuning.experiment.schema import Model, TrainSet


def plane(
    model: Annotated[
        str, typer.Argument(help="name in configs/models, a folder with a model, or owner/name on the Hugging Face hub")
    ],
    data: Annotated[
        str,
        typer.Argument(
            help="name in configs/train_sets, or a .json, .jsonl (.gz) or .parquet file of instruction, input, output "
            "columns or of chats (messages)"
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder to write MODEL-DATA.svg, .png and .csv to")] = Path(
        "results/planes"
    ),
    limit: Annotated[int | None, typer.Option(min=2, help="score a fixed random draw of so many samples")] = None,
    sample_ratio: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="share of the samples that the triage should keep")
    ] = 0.25,
    template: Annotated[
        str | None, typer.Option(help="plain, alpaca or chat; default: the model's in configs/models, else alpaca")
    ] = None,
    cutoff: Annotated[int, typer.Option(min=2, help="tokens per sample; a longer response is cut")] = 1024,
    configs: Annotated[Path, typer.Option(help="folder with models/ and train_sets/")] = Path("configs"),
    results: Annotated[Path, typer.Option(help="folder of everything generated: models made ready")] = Path("results"),
    data_dir: Annotated[Path | None, typer.Option(help="local copies of train sets, instead of the hub")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of this job")] = 1,
) -> None:
    """Score every sample of an SFT file under a model, and draw its Error-Uncertainty plane.

    Prints the shares of the quadrants at a median split and at the thresholds that keep `--sample-ratio`, and how error
    and uncertainty correlate. Nothing is trained.

    `qtuning plane mini mini` or `qtuning plane HuggingFaceTB/SmolLM2-135M my_data.jsonl --limit 500`
    """
    # before torch is imported; without PASSIVE, OpenMP's spinning makes neighbours 4 to 10 times slower
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from qtuning.experiment.grid import ConfigFolder

    configured = ConfigFolder(configs, data_dir)
    chosen, train_set = find_model(model, template, configured), find_train_set(data, configured)

    from rich.console import Console
    from tqdm import tqdm

    from qtuning.experiment.names import ResultPaths
    from qtuning.figures.plane import draw_plane
    from qtuning.figures.style import save
    from qtuning.probes.score_file import print_plane, score_file

    with tqdm(unit="sample", desc="scoring", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = score_file(
            chosen,
            train_set,
            ResultPaths(results),
            sample_ratio=sample_ratio,
            limit=limit,
            cutoff=cutoff,
            data_dir=data_dir,
            progress=progress,
        )
    lines = found.thresholds
    tails = (lines.ppl_low, lines.ppl_high, lines.ent_low, lines.ent_high)
    drawing = draw_plane(found.samples, tails=tails, kept=f"kept at {100 * sample_ratio:g}%")
    paths = save(drawing, out, f"{chosen.name}-{train_set.name}")
    print_plane(found, sample_ratio, Console())
    for path in paths:
        print(path)


def find_model(name: str, template: str | None, configured: "ConfigFolder") -> "Model":
    """The model that `name` means: a file of configs/models, the shipped one, a folder, or one on the hub.

    Raises UserError where it can be none of these, or for an unknown template.
    """
    from typing import get_args

    from qtuning.experiment.schema import HubSource, Model, ShippedModelSource, Template
    from qtuning.experiment.yaml_files import nearest

    if template is not None and template not in get_args(Template):
        raise UserError(f"--template = {template!r}: unknown{nearest(template, get_args(Template))}")
    known = configured.names("models")
    folder = Path(name).expanduser()
    if name in known:
        model = configured.model(name)
    elif name == "mini":
        model = Model(name="mini", source=ShippedModelSource(kind="shipped", asset="mini"), template="plain")
    elif folder.is_dir():
        model = Model(name=_slug(folder.resolve().name), source=HubSource(id=str(folder.resolve())))
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        model = Model(name=_slug(name.rpartition("/")[2]), source=HubSource(id=name))
    else:
        raise UserError(
            f"model {name!r}: no folder, no owner/name of the hub, and not in {configured.configs}/models"
            f"{nearest(name, dict.fromkeys([*known, 'mini']))}"
        )
    return model if template is None else model.model_copy(update={"template": template})


def find_train_set(name: str, configured: "ConfigFolder") -> "TrainSet":
    """The train set that `name` means: a file of configs/train_sets, the mini world's, or an SFT file.

    The form of an SFT file follows from its first row. Rows of it that cannot be used are counted, not refused. Raises
    UserError where there is no such file, or its first row is of neither form.
    """
    from qtuning.experiment.schema import FileSource, TrainSet
    from qtuning.experiment.yaml_files import nearest

    known, path = configured.names("train_sets"), Path(name).expanduser()
    if name in known:
        return configured.train_set(name)
    if name == "mini":
        return TrainSet(name="mini", source=FileSource(kind="mini-world", file="sft/train.jsonl.gz"))
    if not path.exists():
        raise UserError(
            f"data {name!r}: no such file, and not in {configured.configs}/train_sets"
            f"{nearest(name, dict.fromkeys([*known, 'mini']))}"
        )
    source = FileSource(kind="path", file=str(path.resolve()))
    stem = path.name.split(".")[0]
    return TrainSet(name=_slug(stem), source=source, format=_form(path), bad_rows=1.0)


def _form(path: Path) -> Any:
    """`alpaca` or `chat`, by the columns of the first row that is an object."""
    from qtuning.data.sources import locate, read_file
    from qtuning.experiment.schema import FileSource

    rows = read_file(locate(FileSource(kind="path", file=str(path)), data_dir=None))
    first = next((row for row in rows if isinstance(row.value, dict)), None)
    if first is None:
        raise UserError(f"{path}: has no row that is an object with columns")
    assert isinstance(first.value, dict)
    if "messages" in first.value:
        return "chat"
    if {"instruction", "output"} <= set(first.value):
        return "alpaca"
    raise UserError(
        f"{path}:{first.line}: has columns {', '.join(map(str, first.value))}; expected instruction and output (input "
        "is optional), or messages; name other columns in a file of configs/train_sets (`columns`)"
    )


def _slug(text: str) -> str:
    """`text` as a name: what is not allowed in one becomes a dash."""
    import re

    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._")[:64] or "unnamed"
