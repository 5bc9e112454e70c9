"""Questions to a model that another process runs, and its replies: lm-eval's model without weights.

Benchmarks are worked through twice. The first time the model only notes what it is asked, and answers nothing. The
process that has the weights replies to all of it. The second time the model gives these replies, and the answers are
marked. Prompts become tokens here and nowhere else, by the same code as for a model that runs in this process.
Import this module inside functions: it takes seconds.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import AutoConfig, GenerationConfig

from qtuning.errors import UserError
from qtuning.evaluation.answers import Scores, TokenPair
from qtuning.evaluation.model import EvaluatedModel, check_chat_template, check_model
from qtuning.experiment.cell import Evaluation
from qtuning.files import canonical_json


@dataclass
class Questions:
    """What a model is asked, in order.

    room: most tokens of a sequence. ends: tokens that end a generation. kinds: of generations, their stop texts and
    most tokens. generations: (kind, tokens of the prompt). pairs: (tokens of the answer, counted; all tokens).
    """

    room: int
    ends: list[int]
    kinds: list[dict[str, Any]] = field(default_factory=list)
    generations: list[tuple[int, list[int]]] = field(default_factory=list)
    pairs: list[tuple[int, list[int]]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(canonical_json(vars(self)).encode()).hexdigest()


class AskedModel(EvaluatedModel):
    """Notes what it is asked; answers from `replies` in the same order, or nothing. Has a tokenizer and no weights."""

    def __init__(self, base: Path, evaluation: Evaluation, replies: dict[str, Any] | None = None) -> None:
        """base: folder of the base model. replies: what `vllm_engine.answer` returns. UserError as `load_model`."""
        check_model(base, None)
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        super().__init__(
            # what lm-eval reads of a model beside its weights
            pretrained=SimpleNamespace(config=config, device=torch.device("cpu"), name_or_path=str(base)),
            tokenizer=str(base),
            backend="causal",
            batch_size=evaluation.batch_size,
            max_length=evaluation.max_length,
        )
        check_chat_template(self, base, evaluation)
        # a pair has one token more than what goes through the model, and vLLM generates one more
        longest = getattr(config.get_text_config(), "max_position_embeddings", None) or evaluation.max_length + 2
        if longest < evaluation.max_length:
            raise UserError(
                f"evaluation.max_length = {evaluation.max_length}: vLLM takes no more than the model's own {longest} "
                "tokens; lower it"
            )
        has_own = (base / "generation_config.json").is_file()
        ends = (GenerationConfig.from_pretrained(base) if has_own else config).eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.questions = Questions(min(evaluation.max_length + 2, longest), ends)
        self.replies = replies

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The texts up to their first stop text."""
        end = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        first, stops = len(self.questions.generations), []
        prompts = self._encode_all([request.args[0] for request in requests])
        for request, prompt in zip(requests, prompts, strict=True):
            options = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            stops.append(handle_stop_sequences(options["until"], eos=end))
            kind = {"stops": stops[-1], "most": options["max_gen_toks"]}
            if kind not in self.questions.kinds:
                self.questions.kinds.append(kind)
            prompt = prompt[-(self.max_length - kind["most"]) :]  # what is too long loses its beginning
            self.questions.generations.append((self.questions.kinds.index(kind), prompt))
        made = self._replied("generated", first, [[]] * len(requests))
        return [
            postprocess_generated_text(self.tok_decode(tokens), stop, None)
            for tokens, stop in zip(made, stops, strict=True)
        ]

    def _scores(self, pairs: Sequence[TokenPair]) -> list[Scores]:
        first, most = len(self.questions.pairs), self.questions.room - 1
        for prompt, answer in pairs:
            whole = (prompt + answer)[-most:]
            # of the first token of all there is no likelihood
            self.questions.pairs.append((min(len(answer), len(whole) - 1), whole))
        return [(value, best) for value, best in self._replied("scores", first, [[0.0, False]] * len(pairs))]

    def _replied(self, kind: str, first: int, nothing: list[Any]) -> list[Any]:
        """The replies from number `first` on; `nothing` while questions are noted, or where there are too few."""
        found = [] if self.replies is None else self.replies[kind][first : first + len(nothing)]
        return found if len(found) == len(nothing) else nothing
