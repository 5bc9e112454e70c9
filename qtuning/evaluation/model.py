"""The language model as lm-eval sees it. This module takes seconds to import, so import it inside functions."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import StoppingCriteriaList

from qtuning.data.templates import chat_prompt
from qtuning.errors import UserError
from qtuning.evaluation.answers import AnswerScorer, Scores, TokenPair
from qtuning.evaluation.generation import StopTexts, can_generate, generate
from qtuning.experiment.cell import Evaluation
from qtuning.model.out_of_memory import is_out_of_memory
from qtuning.model.packed import causal_lm_of


class EvaluatedModel(HFLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's Hugging Face model, faster: rows of a generation end one by one, answers to a prompt share a forward.

    Where a model's attention or head is of a kind that this cannot serve, lm-eval's own methods do the work.
    """

    def prepare_for_gpu(self) -> None:
        """Add the LoRA adapter, if there is one, to the weights, and leave cuDNN's attention out.

        The adapter's product is float32, and each sum is rounded once to the dtype of the weights. cuDNN keeps a plan
        for every new length, and each token that is generated makes one.
        """
        torch.backends.cuda.enable_cudnn_sdp(False)
        if hasattr(self.model, "merge_and_unload"):
            self._model = self.model.merge_and_unload()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Scores]:
        """(log-likelihood, whether greedy decoding would write it) of each request's continuation."""
        return self.score_answers(self.encode_pairs([request.args for request in requests]))

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[TokenPair]:
        """The tokens of (prompt, continuation) as lm-eval splits them, all in one call of the tokenizer."""
        moved = []
        for prompt, continuation in pairs:
            assert prompt.strip(), "every prompt of a benchmark has words"
            kept = prompt.rstrip()
            moved.append((kept, prompt[len(kept) :] + continuation))
        prompts = list(dict.fromkeys(prompt for prompt, _ in moved))
        whole = self._encode_all([prompt + continuation for prompt, continuation in moved])
        tokens = dict(zip(prompts, self._encode_all(prompts), strict=True))
        return [
            (tokens[prompt], all_tokens[len(tokens[prompt]) :])
            for (prompt, _), all_tokens in zip(moved, whole, strict=True)
        ]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt as training writes it."""
        assert add_generation_prompt, "no benchmark of ours begins the answer itself"
        return chat_prompt(chat_history, self.tokenizer)

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """What `tok_encode` gives for each."""
        beginning = self.tokenizer.decode(self.prefix_token_id)
        if any(text.startswith(beginning) for text in texts):  # written by a chat template: not once more
            return [self.tok_encode(text) for text in texts]
        special = {} if self.add_bos_token is None else {"add_special_tokens": self.add_bos_token}
        return list(self.tokenizer(texts, **special)["input_ids"]) if texts else []

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
            return scorer.score(pairs)
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

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        """context (rows, prompt), left-padded -> (rows, at most max_length)."""
        model, attention = causal_lm_of(self.model), options["attention_mask"]
        stops = StopTexts(stop, self.tokenizer, context.shape[1])
        if can_generate(model):
            return generate(model, context, attention, max_length - context.shape[1], stops)
        return self.model.generate(
            input_ids=context,
            attention_mask=attention,
            max_length=max_length,
            stopping_criteria=StoppingCriteriaList([stops]),
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,
            use_cache=True,
        )


def check_model(base: Path, adapter: Path | None) -> None:
    """UserError if a folder is no model or no adapter."""
    for folder, marker in ((base, "config.json"), (adapter, "adapter_config.json")):
        if folder is not None and not (folder / marker).is_file():
            raise UserError(f"{folder / marker}: no such file, so {folder} is not a model that can be evaluated")


def check_chat_template(model: HFLM, base: Path, evaluation: Evaluation) -> None:
    """UserError if prompts shall be written by a chat template that the tokenizer lacks."""
    if evaluation.chat_template and model.tokenizer.chat_template is None:
        raise UserError(
            f"evaluation.chat_template = true: the tokenizer in {base} has no chat template; set it to false"
        )


def load_model(base: Path, adapter: Path | None, evaluation: Evaluation) -> EvaluatedModel:
    """The model in `base` with the LoRA `adapter`, on the GPU if there is one. UserError if a folder is no model.

    On a GPU the adapter is merged into the weights: one more matrix product a layer and token would take about as long
    as the layer's own. On a CPU it stays beside them, so that float32 scores are those of the trained model to the bit.
    """
    check_model(base, adapter)
    model = EvaluatedModel(
        pretrained=str(base),
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
    check_chat_template(model, base, evaluation)
    return model
