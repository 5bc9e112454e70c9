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
from transformers import AutoConfig, GenerationConfig

from qtuning.data.limits import Wanted, check_limits
from qtuning.data.tokenise import load_tokenizer
from qtuning.evaluation.answers import Scores, TokenPair
from qtuning.evaluation.model import EvaluatedModel, Generation, check_model
from qtuning.experiment.cell import Evaluation, Template
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

    def __init__(
        self, base: Path, evaluation: Evaluation, template: Template = "plain", replies: dict[str, Any] | None = None
    ) -> None:
        """base: folder of the base model. replies: what `vllm_engine.answer` returns. All else as in `load_model`."""
        check_model(base, None)
        check_limits(base, Wanted(max_length=evaluation.max_length, chat=evaluation.chat_template))
        config = AutoConfig.from_pretrained(base, local_files_only=True)
        super().__init__(
            # what lm-eval reads of a model beside its weights
            pretrained=SimpleNamespace(config=config, device=torch.device("cpu"), name_or_path=str(base)),
            tokenizer=load_tokenizer(base),
            backend="causal",
            batch_size=evaluation.batch_size,
            max_length=evaluation.max_length,
        )
        # a pair has one token more than what goes through the model, and vLLM generates one more
        longest = getattr(config.get_text_config(), "max_position_embeddings", None) or evaluation.max_length + 2
        has_own = (base / "generation_config.json").is_file()
        ends = (GenerationConfig.from_pretrained(base) if has_own else config).eos_token_id
        self.ask_as(evaluation, template, ends)
        self.questions = Questions(min(evaluation.max_length + 2, longest), self.ends)
        self.replies = replies

    def _generated(self, asked: Sequence[Generation]) -> list[list[int]]:
        first = len(self.questions.generations)
        for each in asked:
            kind = {"stops": each.stops, "most": each.most}
            if kind not in self.questions.kinds:
                self.questions.kinds.append(kind)
            self.questions.generations.append((self.questions.kinds.index(kind), each.prompt))
        return self._replied("generated", first, [[]] * len(asked))

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
