"""The wheel where only what it requires is installed: the core works, and commands say which extra they need.

Nothing is downloaded: what the wheel's metadata ask for is linked from this environment.
"""

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qtuning.cli import extras

ROOT = Path(__file__).parents[1]

TRAINER = """
import re
import sys
from pathlib import Path

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

inner = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, 40)}}, unk_token="<pad>"))
inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
shape = dict(vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(**shape))
rows = [{"prompt": "w2 w3", "completion": " w" + str(4 + n) + " w5 w6" * (n % 3)} for n in range(32)]
dataset = Dataset.from_list(rows)
training, reading = re.findall(r"```python\\n(.*?)```", Path(sys.argv[1]).read_text(encoding="utf-8"), flags=re.DOTALL)
exec(training.replace('SFTConfig("output",', 'SFTConfig("output", use_cpu=True, report_to="none",'))
exec(reading)
assert trace["sample"].n_unique() == 32 and 0 < trace["kept"].sum() < len(trace)
"""


def closure(*requirements: str) -> set[str]:
    """The names of the installed packages that these requirements need, with all that those need."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        asked = waiting.pop()
        for extra in ("", *asked.extras):
            name = canonicalize_name(asked.name)
            if (name, extra) in found:
                continue
            try:
                needed = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:
                continue
            found.add((name, extra))
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


class Light:
    """An environment with the wheel and what it requires."""

    def __init__(self, wheel: Path, folder: Path, extra: str = "") -> None:
        # so called, because dill stores what lies elsewhere as if the user had written it
        self.folder, self.site = folder, folder / "site-packages"
        target = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
        subprocess.run([*target, str(self.site), str(wheel)], check=True, capture_output=True)
        (metadata,) = self.site.glob("qtuning-*.dist-info/METADATA")
        asked = [Requirement(t) for t in re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE)]
        wanted = [
            str(each).split(";")[0] for each in asked if not each.marker or each.marker.evaluate({"extra": extra})
        ]
        self.packages = closure(*wanted)
        for package in self.packages:
            installed = distribution(package)
            for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
                if not (self.site / top).exists():
                    (self.site / top).symlink_to(str(installed.locate_file(top)))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *arguments],  # -S: without the packages of this environment
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.site), "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files, so that nothing of a build is left among them."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")
    for name in names:
        if name.startswith("qtuning/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(folder), str(folder / "source")], check=True, capture_output=True)
    (found,) = folder.glob("qtuning-*.whl")
    return found


@pytest.mark.slow
def test_the_core_checks_pruners_and_names_the_extra_of_other_commands(wheel: Path, tmp_path: Path) -> None:
    light = Light(wheel, tmp_path)
    assert not {"snakemake", "lm-eval", "wandb", "matplotlib", "datasets", "peft", "trl"} & light.packages
    where = light.run("-c", "import qtuning.integrations; print(qtuning.__file__)")
    assert where.returncode == 0 and where.stdout.startswith(str(light.site)), where.stderr
    checked = light.run("-m", "qtuning", "check-pruner", "q-tuning", "ds2", "random", "--kind", "sample")
    assert checked.returncode == 0 and "all rules kept" in checked.stdout, checked.stdout + checked.stderr
    rows = "".join(f'{{"instruction": "What is 2 + {n}?", "output": "{2 + n}"}}\n' for n in range(12))
    (tmp_path / "small.jsonl").write_text(rows)
    plane = light.run("-m", "qtuning", "plane", "mini", "small.jsonl", "--configs", str(ROOT / "configs"))
    assert plane.returncode == 2
    assert plane.stderr == "error: plane needs matplotlib, which is not installed; pip install 'qtuning[bench]'\n"


@pytest.mark.slow
def test_the_example_of_the_trainer_runs_with_the_extra_trl(wheel: Path, tmp_path: Path) -> None:
    light = Light(wheel, tmp_path, "trl")
    assert not {"snakemake", "lm-eval", "wandb", "matplotlib"} & light.packages
    (tmp_path / "train.py").write_text(TRAINER)
    trained = light.run("train.py", str(ROOT / "docs" / "trainers.md"))
    assert trained.returncode == 0, trained.stderr[-3000:]


def test_every_package_beyond_the_core_is_known_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [
        f'{text}; extra == "{extra}"' for extra, more in project["optional-dependencies"].items() for text in more
    ]
    monkeypatch.setattr(extras, "requires", lambda name: [*project["dependencies"], *listed])
    bench = {
        "lm_eval.api.task": "bench",
        "snakemake": "bench",
        "wandb": "bench",
        "math_verify": "bench",
        "antlr4": "bench",
    }
    others = {"trl": "trl", "wandb_workspaces.workspaces": "dashboard", "pytest": "dev", "torch": None, "numby": None}
    for module, extra in (bench | others).items():
        assert extras.extra_of(module) == extra
    packages = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert not packages & {
        canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["bench"]
    }
