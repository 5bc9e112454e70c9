"""The language model as lm-eval sees it. This module takes seconds to import, so import it inside functions."""

from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from qtuning.errors import UserError
from qtuning.experiment.cell import Evaluation


class StopTexts(StoppingCriteria):
    """Ends each row of a batch at the first stop text that it generates.

    lm-eval's own criteria end a batch only once all rows have hit the same stop text: if one row ends at a line break
    and another at EOS, both run to the length limit. Whatever follows a stop text is cut off afterwards in either case,
    so the answers are the same and take less time.
    """

    def __init__(self, texts: list[str], tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self.texts = texts
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        # a text has no more tokens than bytes, however it is tokenised
        self.window = max(len(text.encode()) for text in texts)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        """input_ids (rows, prompt + generated) -> (rows,) bool: which rows are done."""
        start = max(self.prompt_length, input_ids.shape[1] - self.window)
        tails = self.tokenizer.batch_decode(input_ids[:, start:])
        done = [any(text in tail for text in self.texts) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class EvaluatedModel(HFLM):  # type: ignore[misc]  # lm-eval is not typed
    """lm-eval's Hugging Face model, with greedy generation that ends row by row."""

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        """context (rows, prompt), left-padded -> (rows, at most max_length)."""
        return self.model.generate(
            input_ids=context,
            attention_mask=options["attention_mask"],
            max_length=max_length,
            stopping_criteria=StoppingCriteriaList([StopTexts(stop, self.tokenizer, context.shape[1])]),
            pad_token_id=self.tokenizer.pad_token_id,
            do_sample=False,
            use_cache=True,
        )


def load_model(base: Path, adapter: Path | None, evaluation: Evaluation) -> EvaluatedModel:
    """The model in `base` with the LoRA `adapter`, on the GPU if there is one. UserError if a folder is no model."""
    for folder, marker in ((base, "config.json"), (adapter, "adapter_config.json")):
        if folder is not None and not (folder / marker).is_file():
            raise UserError(f"{folder / marker}: no such file, so {folder} is not a model that can be evaluated")
    model = EvaluatedModel(
        pretrained=str(base),
        backend="causal",
        peft=None if adapter is None else str(adapter),
        dtype=evaluation.dtype,
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=evaluation.batch_size,
        max_length=evaluation.max_length,
    )
    if evaluation.chat_template and model.tokenizer.chat_template is None:
        raise UserError(
            f"evaluation.chat_template = true: the tokenizer in {base} has no chat template; set it to false"
        )
    return model
