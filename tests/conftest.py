"""Tiny random causal language models, built in memory; folders of finished cells; a browser."""

import copy
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# a loaded machine is slow, and nothing is wrong
settings.register_profile("qtuning", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("qtuning")

# of who runs the tests, and not of what is tested: colours and widths of what is printed, logins and proxies, settings
# of programs that tests start, the job in which they run
for name in filter(
    re.compile(
        r"(?i:\w+_proxy)|(FORCE|NO)_COLOR|PY_COLORS|GITHUB_ACTIONS|TTY_\w+|COLUMNS|LINES|TERMINAL_WIDTH|PYTHONWARNINGS"
        r"|(QTUNING|WANDB|SLURM|SNAKEMAKE|MASTER)_\w+|(HF|HUGGING_FACE_HUB)_TOKEN\w*|HF_ENDPOINT"
        r"|HF_HUB_DISABLE_PROGRESS_BARS|TQDM_\w+|TRANSFORMERS_VERBOSITY|RANK|LOCAL_RANK|WORLD_SIZE|NODE_RANK"
    ).fullmatch,
    list(os.environ),
):
    del os.environ[name]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # the tests compare bits, wherever they run

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # wide enough that attention and head matter
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def nothing_left_over() -> Iterator[None]:
    """accelerate keeps its precision for the whole process: a test in bfloat16 must not set that of the next one.

    And wandb tells all processes that this one starts where its service is, which may end with the test.
    """
    yield
    os.environ.pop("WANDB_SERVICE", None)
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; a test that wants one is skipped where there is none."""
    pytest.importorskip("playwright.sync_api")
    from browser import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with chromium() as started:
        yield started


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A `hub_server.Hub` that huggingface_hub and datasets take for the real one, and an empty cache."""
    import datasets
    from hub_server import Hub, serve
    from huggingface_hub import close_session, constants

    hub = Hub()
    server = serve(hub)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)  # elsewhere than on the hub
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets-cache"))
    close_session()
    yield hub
    server.shutdown()
    server.server_close()
    close_session()


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """build(family, **config) -> a random causal language model of a transformers family, in evaluation mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def build(family: str, seed: int = 0, **settings: Any) -> Any:
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **{**SHAPE, **settings})
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()

    return build


@pytest.fixture(scope="session")
def tiny_llama(build: Callable[..., Any]) -> Any:
    """A Llama with grouped-query attention, for all to read; take `copy.deepcopy` to change it."""
    return build("llama")


@pytest.fixture
def packed_llama(tiny_llama: Any) -> Any:
    """A `PackedModel` around a copy of `tiny_llama`."""
    from qtuning.model.packed import PackedModel

    return PackedModel(copy.deepcopy(tiny_llama))


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    """The mini experiment with three methods, nothing run yet."""
    from cell_folders import Folders, config_folder

    (grid,) = config_folder(tmp_path / "configs").expand(["mini"])
    return Folders(tmp_path / "results", grid)


@pytest.fixture
def make_folders(tmp_path: Path) -> Callable[..., Any]:
    """The mini experiment with changed keys, nothing run yet."""
    from cell_folders import Folders, config_folder

    def make(**changes: Any) -> Folders:
        name = changes.get("name", "mini")
        (grid,) = config_folder(tmp_path / "configs", **changes).expand([name])
        return Folders(tmp_path / "results", grid)

    return make
