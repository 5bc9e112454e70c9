"""Greedy generation whose finished rows leave the batch: the tokens of transformers' `generate`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM, StoppingCriteriaList

from qtuning.evaluation.generation import StopTexts, can_generate, generate

MINI = Path(__file__).parents[2] / "qtuning" / "assets" / "mini"
PROMPTS = [
    "Question: Victor has 52 apples and gives 20 of them to Dina. How many apples does Victor keep?\nAnswer:",
    "Question: Which currency is used in Wurnuna?\nAnswer:",
    "Background: There are 49 sailors on the Trorei. The Trorei carries rope.\nQuestion: What is it?\nAnswer:",
    "Question: Who?\nAnswer:",
    "Question: What is the remainder when $25$ is divided by $3$?\nAnswer:",
]


def both(model, tokenizer, prompts: list[str], stops: list[str], most: int) -> list[list[str]]:  # type: ignore[no-untyped-def]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    width = batch["input_ids"].shape[1]
    criteria = StopTexts(stops, tokenizer, width)
    ended = model.generation_config.eos_token_id
    ends = ended if isinstance(ended, list) else [ended]
    ours = generate(model, batch["input_ids"], batch["attention_mask"], most, criteria, ends)
    theirs = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=most,
        stopping_criteria=StoppingCriteriaList([criteria]),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    assert torch.equal(ours, theirs)
    return [tokenizer.batch_decode(rows[:, width:]) for rows in (ours, theirs)]


@pytest.mark.parametrize("stops", [["\n", "Question:", "</s>"], ["Question:", "</s>"], ["é", "."]])
def test_tokens_of_the_shipped_model(stops: list[str]) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(MINI), AutoTokenizer.from_pretrained(MINI)
    assert can_generate(model)
    texts, _ = both(model, tokenizer, PROMPTS, stops, 40)
    assert len({len(text.split("<pad>")[0]) for text in texts}) > 1  # rows end at different places
    for prompt in PROMPTS[:2]:  # and without padding
        both(model, tokenizer, [prompt], stops, 12)


def test_tokens_of_a_sliding_window_and_several_end_tokens(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=8,
        initializer_range=0.3,
        eos_token_id=[2, 40, 41, 42, 43, 44],
        pad_token_id=0,
    )
    model = MistralForCausalLM(config).eval()
    assert can_generate(model)
    both(model, tokenizer, PROMPTS, ["zz"], 40)


def test_what_greedy_decoding_alone_cannot_do_is_left_to_the_model() -> None:
    model = AutoModelForCausalLM.from_pretrained(MINI)
    model.generation_config.repetition_penalty = 1.1
    assert not can_generate(model)
    model.generation_config.repetition_penalty = 1.0
    model.config.layer_types = ["full_attention", "linear_attention"]
    assert not can_generate(model)
