"""The language model as lm-eval sees it. This module takes seconds to import, so import it inside functions."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import StoppingCriteriaList

from qtuning.data.chat import TemplateRefusal, chat_prompt
from qtuning.data.limits import Wanted, check_ids, check_limits
from qtuning.data.templates import turn_of
from qtuning.data.tokenise import encode_pairs, encode_prompts, load_tokenizer
from qtuning.errors import UserError
from qtuning.evaluation.answers import AnswerScorer, Scores, TokenPair
from qtuning.evaluation.generation import StopTexts, can_generate, generate
from qtuning.evaluation.sdpa import ON_GPU
from qtuning.experiment.cell import Evaluation, Template
from qtuning.files import canonical_json
from qtuning.model.out_of_memory import is_out_of_memory
from qtuning.model.packed import causal_lm_of
from qtuning.progress import Reporter


@dataclass(frozen=True)
class Generation:
    """One text to generate.

    prompt: its token ids, without the beginning where that has no room. length: of the whole prompt. kind: names what
    lm-eval asks of the generation. stops: texts that end it. most: tokens.
    """

    text: str
    prompt: list[int]
    length: int
    kind: str
    stops: list[str]
    most: int


class EvaluatedModel(HFLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's Hugging Face model: token ids are those of training, and it is faster.

    Rows of a generation end one by one, answers to a prompt share a forward. Where a model's attention or head is of a
    kind that this cannot serve, lm-eval's own methods do the work.
    """

    def ask_as(self, evaluation: Evaluation, template: Template, ends: int | list[int] | None) -> None:
        """Say how prompts are written and where generations end; to be called once, before anything is asked.

        template: that the model was trained with. ends: the token or tokens of its generation_config. UserError where
        the tokenizer lacks what the template or the evaluation needs.
        """
        self.chat = evaluation.chat_template
        self.turn = turn_of(self.tokenizer, "chat" if self.chat else template)
        given = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.ends = [*given, *({self.turn.id} - set(given))]
        self.unfinished: set[tuple[str | None, int | None]] = set()
        """Task and item of the answers that reached their longest length without an end."""
        self.reporter = Reporter()  # whoever evaluates may give another, which is seen elsewhere, too

    def prepare_for_gpu(self) -> None:
        """Add the LoRA adapter, if there is one, to the weights, and choose attention (sdpa.py) without cuDNN's.

        The adapter's product is float32, and each sum is rounded once to the dtype of the weights. cuDNN keeps a plan
        for every new length, and each token that is generated makes one.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        if hasattr(self.model, "merge_and_unload"):
            self._model = self.model.merge_and_unload()
        if self.model.config.get_text_config()._attn_implementation == "sdpa":  # soft caps have another
            self.model.set_attn_implementation(ON_GPU)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Scores]:
        """(log-likelihood, whether greedy decoding would write it) of each request's continuation."""
        return self.score_answers(self.encode_pairs([request.args for request in requests]))

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[TokenPair]:
        """The tokens of (prompt, continuation), all in one call of the tokenizer.

        White space at the end of a plain prompt goes to the continuation, as in lm-eval. A chat template's prompt stays
        as it is, and what the template writes before a response stands before the continuation.
        """
        texts = []
        for prompt, continuation in pairs:
            assert prompt.strip(), "every prompt of a benchmark has words"
            kept = prompt if self.chat else prompt.rstrip()
            texts.append((kept, prompt[len(kept) :] + (self.turn.lead if self.chat else "") + continuation))
        pairs_of_ids = [(parts.prompt, parts.rest) for parts in encode_pairs(texts, self.tokenizer, self.chat)]
        self._check_ids(chain.from_iterable(chain.from_iterable(pairs_of_ids)))
        return pairs_of_ids

    def _check_ids(self, ids: Iterable[int]) -> None:
        """UserError for a token without an embedding: a benchmark may hold words that no train set did."""
        check_ids(Path(self.tokenizer.name_or_path), ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as training writes it. UserError where the template refuses it."""
        assert add_generation_prompt, "no benchmark of ours begins the answer itself"
        try:
            return chat_prompt(chat_history, self.tokenizer)
        except TemplateRefusal as refusal:
            raise UserError(
                f"evaluation.chat_template = true: a prompt is refused: {refusal}; set it to false"
            ) from None

    def tok_encode(self, string: str, *_: Any, **__: Any) -> list[int]:
        """Token ids of a prompt, as training makes them."""
        return encode_prompts([string], self.tokenizer, self.chat)[0]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The texts up to their first stop text or end token. Those without are noted in `unfinished`."""
        asked = []
        prompts = encode_prompts([request.args[0] for request in requests], self.tokenizer, self.chat)
        self._check_ids(chain.from_iterable(prompts))
        for request, prompt in zip(requests, prompts, strict=True):
            text, given = request.args
            options = normalize_gen_kwargs(given, self.max_gen_toks)
            stops = handle_stop_sequences(options["until"], self.tokenizer.eos_token)
            stops += [stop for stop in self.turn.stops if stop not in stops]
            most = options["max_gen_toks"]
            room = prompt[-(self.max_length - most) :]  # what is too long loses its beginning
            asked.append(Generation(text, room, len(prompt), canonical_json(given), stops, most))
        texts = []
        for request, each, tokens in zip(requests, asked, self._generated(asked), strict=True):
            end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
            answer = self.tokenizer.decode(tokens[:end])
            if end is None and not any(stop in answer for stop in each.stops):
                self.unfinished.add((request.task_name, request.doc_id))
            texts.append(postprocess_generated_text(self.tok_decode(tokens[:end]), each.stops, None))
        return texts

    def _generated(self, asked: Sequence[Generation]) -> list[list[int]]:
        """The tokens of each. What follows an end token or a stop text means nothing.

        Batches are those of lm-eval, as scores move a little with them: of one kind, the longest prompts first.
        """
        found: list[list[int]] = [[] for _ in asked]
        kinds: dict[str, list[int]] = {}
        for place, each in enumerate(asked):
            kinds.setdefault(each.kind, []).append(place)
        with self.reporter.doing("generated answer", len(asked)):
            for places in kinds.values():
                places.sort(key=lambda place: (-asked[place].length, asked[place].text))
                for start in range(0, len(places), self.batch_size):
                    batch = places[start : start + self.batch_size]
                    for place, tokens in zip(batch, self._batch([asked[place] for place in batch]), strict=True):
                        found[place] = tokens
                    self.reporter.advance(len(batch))
        return found

    def _batch(self, asked: Sequence[Generation]) -> list[list[int]]:
        """Generations of one kind, padded on the left."""
        width = max(len(each.prompt) for each in asked)
        pads = [width - len(each.prompt) for each in asked]
        padding = self.tokenizer.pad_token_id
        rows = [[padding] * pad + each.prompt for pad, each in zip(pads, asked, strict=True)]
        context = torch.tensor(rows, device=self.device)
        attention = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=self.device)
        made = self._continue(context, attention, asked[0].most, asked[0].stops)
        return made[:, width:].tolist()  # type: ignore[no-any-return]

    def score_answers(self, pairs: Sequence[TokenPair]) -> list[Scores]:
        """As `loglikelihood`, of token pairs. A continuation without tokens of its own has probability 1."""
        found: list[Scores] = [(0.0, True)] * len(pairs)
        places = [place for place, (_, answer) in enumerate(pairs) if answer]
        asked = [pairs[place] for place in places]
        for place, scores in zip(places, self._scores(asked), strict=True):
            found[place] = scores
        return found

    def _scores(self, pairs: Sequence[TokenPair]) -> list[Scores]:
        if not pairs:
            return []
        scorer = AnswerScorer(self.model, self.max_length, self.batch_size)
        if (why := self._differs(scorer, pairs)) is None:
            with self.reporter.doing("scored answer", len(pairs)):
                return scorer.score(pairs, self.reporter.advance)
        logging.getLogger(__name__).warning(f"answers are scored one by one: {why}")
        return self._slow_scores(pairs)

    def _slow_scores(self, pairs: Sequence[TokenPair]) -> list[Scores]:
        """lm-eval's own; a longer answer than it takes loses its beginning."""
        cut = [(("", ""), prompt, answer[-self.max_length :]) for prompt, answer in pairs]
        return list(self._loglikelihood_tokens(cut, disable_tqdm=True))

    def _differs(self, scorer: AnswerScorer, pairs: Sequence[TokenPair]) -> str | None:
        """Why our scores of the longest and of the shortest prompt's answers are not lm-eval's; None if they are."""
        prompts = sorted({tuple(prompt) for prompt, _ in pairs}, key=len)
        probes = [pair for pair in pairs if tuple(pair[0]) in (prompts[0], prompts[-1])]
        try:
            ours = scorer.score(probes)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            return str(error)
        # bfloat16 has 3 digits
        allowed = 1e-3 if self.model.dtype == torch.float32 else 0.25
        for (mine, _), (theirs, _), (_, answer) in zip(ours, self._slow_scores(probes), probes, strict=True):
            if not abs(mine - theirs) <= allowed * len(answer):
                return f"{mine:.4f} nats together, {theirs:.4f} alone"
        return None

    def _continue(self, context: torch.Tensor, attention: torch.Tensor, most: int, stops: list[str]) -> torch.Tensor:
        """context (rows, prompt), left-padded -> (rows, at most prompt + most)."""
        model = causal_lm_of(self.model)
        criteria = StopTexts(stops, self.tokenizer, context.shape[1])
        if can_generate(model):
            return generate(model, context, attention, most, criteria, self.ends)
        return self.model.generate(
            input_ids=context,
            attention_mask=attention,
            max_new_tokens=most,
            stopping_criteria=StoppingCriteriaList([criteria]),
            eos_token_id=self.ends,
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,
            use_cache=True,
        )


def check_model(base: Path, adapter: Path | None) -> None:
    """UserError if a folder is no model or no adapter."""
    for folder, marker in ((base, "config.json"), (adapter, "adapter_config.json")):
        if folder is not None and not (folder / marker).is_file():
            raise UserError(f"{folder / marker}: no such file, so {folder} is not a model that can be evaluated")


def load_model(
    base: Path, adapter: Path | None, evaluation: Evaluation, template: Template = "plain"
) -> EvaluatedModel:
    """The model in `base` with the LoRA `adapter`, on the GPU if there is one. UserError if a folder is no model.

    template: that it was trained with; chat: generations end where its turns end.

    On a GPU the adapter is merged into the weights: one more matrix product a layer and token would take about as long
    as the layer's own. On a CPU it stays beside them, so that float32 scores are those of the trained model to the bit.
    """
    check_model(base, adapter)
    check_limits(base, Wanted(max_length=evaluation.max_length, chat=evaluation.chat_template))
    model = EvaluatedModel(
        pretrained=str(base),
        tokenizer=load_tokenizer(base),
        backend="causal",
        peft=None if adapter is None else str(adapter),
        dtype=evaluation.dtype,
        softmax_dtype="float32",  # in bfloat16 a log-likelihood has 3 digits
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=evaluation.batch_size,
        max_length=evaluation.max_length,
    )
    if model.device.type == "cuda":
        model.prepare_for_gpu()
    model.ask_as(evaluation, template, causal_lm_of(model.model).generation_config.eos_token_id)
    return model
