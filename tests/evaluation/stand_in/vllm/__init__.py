"""Stands in for vLLM where it is not installed: exactly the part of its API that vllm_engine.py uses.

Signatures, defaults and errors are those of vLLM 0.32 (`LLM`, `SamplingParams`, `RequestOutput`, `Logprob`). The
arithmetic is that of transformers, one sequence at a time. `test_vllm.py` runs the same tests with the real one where
QTUNING_VLLM names the Python of an environment that has it.
"""

from dataclasses import dataclass, field
from typing import Any

__version__ = "0.32.0+stand-in"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int = 16
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.stop and not self.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True")


@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    text: str
    token_ids: tuple[int, ...]


@dataclass
class RequestOutput:
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]


class LLM:
    def __init__(
        self, model: str, *, dtype: str, max_model_len: int, max_num_seqs: int, seed: int, load_format: str,
        generation_config: str, enable_prefix_caching: bool, max_num_batched_tokens: int, gpu_memory_utilization: float,
        enable_lora: bool = False, max_loras: int = 1, max_lora_rank: int = 16,
        lora_target_modules: list[str] | None = None,
    ) -> None:  # fmt: skip
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        own = AutoConfig.from_pretrained(model).max_position_embeddings
        if max_model_len > own:
            raise ValueError(f"max_model_len ({max_model_len}) is greater than the derived max_model_len ({own})")
        if max_lora_rank not in RANKS:
            raise ValueError(f"max_lora_rank = {max_lora_rank}")
        if max_num_batched_tokens < max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")
        assert load_format == "safetensors" and generation_config == "vllm"
        self.room, self.rank = max_model_len, max_lora_rank if enable_lora else 0
        # of the head, vLLM's LoRA kernels count the sampled tokens only: likelihoods of prompts end with an error
        self.head_wrapped = enable_lora and (lora_target_modules is None or "lm_head" in lora_target_modules)
        self.base = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.adapted: dict[int, str] = {}
        self.loaded: Any = None

    def _model(self, request: Any) -> Any:
        from peft import PeftConfig, PeftModel

        if PeftConfig.from_pretrained(request.lora_path).r > self.rank:
            raise ValueError(f"LoRA rank is greater than max_lora_rank {self.rank}")
        if request.lora_int_id not in self.adapted:  # as vLLM, which reads an adapter once for each number
            name = f"adapter{request.lora_int_id}"
            if self.loaded is None:
                self.loaded = PeftModel.from_pretrained(self.base, request.lora_path, adapter_name=name)
            else:
                self.loaded.load_adapter(request.lora_path, adapter_name=name)
            self.adapted[request.lora_int_id] = name
        self.loaded.set_adapter(self.adapted[request.lora_int_id])
        return self.loaded

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True,
        lora_request: Any = None,
    ) -> list[RequestOutput]:  # fmt: skip
        from contextlib import nullcontext

        import torch

        asked = list(zip(prompts, sampling_params, strict=True))
        if lora_request is None:
            model, without = self.base, nullcontext() if self.loaded is None else self.loaded.disable_adapter()
        else:
            model, without = self._model(lora_request), nullcontext()
        with torch.inference_mode(), without:
            return [self._one(model, each["prompt_token_ids"], sampling) for each, sampling in asked]

    def _one(self, model: Any, prompt: list[int], sampling: SamplingParams) -> RequestOutput:
        import torch

        if not prompt or len(prompt) >= self.room:
            raise ValueError(f"The decoder prompt (length {len(prompt)}) is empty or longer than {self.room} - 1")
        assert sampling.temperature == 0
        logprobs: list[dict[int, Logprob] | None] | None = None
        if sampling.prompt_logprobs is not None:
            if self.head_wrapped:
                raise RuntimeError("einsum(): subscript b has size 39, which does not broadcast with size 19")
            values = model(input_ids=torch.tensor([prompt])).logits[0].float().log_softmax(dim=-1)
            logprobs = [None]
            for place, token in enumerate(prompt[1:]):
                rank = int((values[place] > values[place, token]).sum()) + 1
                logprobs.append({token: Logprob(float(values[place, token]), rank)})
        made: list[int] = []
        text = ""
        while len(made) < sampling.max_tokens and len(prompt) + len(made) < self.room:
            token = int(model(input_ids=torch.tensor([prompt + made])).logits[0, -1].argmax())
            made.append(token)
            text = str(self.tokenizer.decode(made, skip_special_tokens=sampling.skip_special_tokens))
            ended = token in (*sampling.stop_token_ids, self.tokenizer.eos_token_id)
            if ended or any(stop in text for stop in sampling.stop):
                break
        return RequestOutput(logprobs, [CompletionOutput(text, tuple(made))])
