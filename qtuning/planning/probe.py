"""`--probe`: how fast this machine is with models of these shapes, measured in seconds to a minute. Imports torch.

A model of random weights with the widths and the vocabulary of the real one, but at most LAYERS layers, trains on a few
packed batches and generates a few tokens. Its rate, and what a layer of it costs, are then taken for all layers.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from qtuning.batch import Packed, Sample, pack
from qtuning.planning.hardware import Machine, machines
from qtuning.planning.jobs import Jobs, Scores, Training
from qtuning.planning.lengths import Lengths
from qtuning.planning.shapes import Shape

LAYERS = 2
TOKENS = {"cpu": 128, "cuda": 4096}  # of a batch, at most
REPEATS = 2
PATIENCE = 10.0  # seconds
ROWS, STEPS = 8, 6  # of the generation


def probe(jobs: Jobs) -> tuple[Machine, dict[tuple[str, str], Machine]]:
    """This machine, and as what it appears to each model in training and in evaluation, of what is to do."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = _here(device)
    found: dict[tuple[str, str], Machine] = {}
    for job in jobs.trainings.values():
        key = job.cell.model.name, "training"
        if not job.done and key not in found:
            found[key] = _as_trainer(here, job, device)
    for asked in jobs.scores.values():
        key = asked.cell.model.name, f"evaluation {asked.evaluation.dtype}"
        if not asked.done and key not in found:
            found[key] = _as_answerer(here, asked, device)
    return here, found


def _here(device: torch.device) -> Machine:
    if device.type == "cpu":
        base = machines()["cpu"]
        label = f"this machine, {torch.get_num_threads()} CPU thread(s), probed"
        return Machine(**{**vars(base), "name": "probe", "label": label})
    base, properties = machines()["h100"], torch.cuda.get_device_properties(device)
    label = f"{properties.name}, probed"
    return Machine(**{**vars(base), "name": "probe", "label": label, "memory": float(properties.total_memory)})


def _as_trainer(here: Machine, job: Training, device: torch.device) -> Machine:
    """The machine with the rate of a training step of this job's model."""
    from qtuning.cost import shape_of
    from qtuning.packed_model import PackedModel

    training, layers = job.cell.training, min(LAYERS, job.shape.layers)
    assert training is not None
    lora = training.tuning == "lora"
    model = _random(job.shape, layers, job.cell.dtype)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=training.lora.r, target_modules="all-linear"))  # type: ignore[arg-type]
    wrapped = PackedModel(model).to(device).train()
    whole, single = (_batch(job.lengths, count, TOKENS[device.type], job.shape) for count in (training.batch_size, 1))
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=training.mixed_precision == "bf16")

    def step(packed: Packed) -> Callable[[], None]:
        def run() -> None:
            with mixed:
                loss = wrapped(packed)[0]
            loss.backward()

        return run

    passes = [(packed, _fastest(step(packed), device)) for packed in (single.to(device), whole.to(device))]
    shape = shape_of(model, lora, False)
    (few, short), (many, long) = ((shape.training_flops(packed), seconds) for packed, seconds in passes)
    # two batches give two unknowns: seconds = flops / rate + layers * launch; a rate is never below what was reached
    rate = max((many - few) / max(long - short, 1e-9), many / long) if many > few else many / long
    factor = 2.0 if lora else 3.0
    layer = max(0.0, long - many / rate) / (layers * factor)
    return _with_rate(here, rate, layer)


def _as_answerer(here: Machine, job: Scores, device: torch.device) -> Machine:
    """The machine with the rate of a forward and the time of a generated token of this job's model."""
    layers, dtype = min(LAYERS, job.shape.layers), job.evaluation.dtype
    prompt = max(1, int(max(asked.prompt_tokens for asked in job.answers)))
    prompt = min(prompt, TOKENS[device.type] // ROWS)
    model = _random(job.shape, layers, dtype).to(device).eval()
    ids = torch.randint(0, job.shape.vocabulary, (ROWS, prompt), device=device)

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=ids)

    @torch.no_grad()
    def generate(count: int) -> Callable[[], None]:
        def run() -> None:
            options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
            model.generate(  # type: ignore[operator]
                input_ids=ids[:, :4], attention_mask=torch.ones_like(ids[:, :4]), max_new_tokens=count, **options
            )

        return run

    seconds = _fastest(forward, device)
    tokens = ROWS * prompt
    small = Shape(**{**vars(job.shape), "layers": layers})
    flops = small.forward_flops(tokens, tokens * (prompt + 1) / 2, tokens)
    step = (_fastest(generate(STEPS + 1), device) - _fastest(generate(1), device)) / STEPS
    return _with_rate(here, flops / seconds, max(step, 0.0) / layers)


def _with_rate(here: Machine, rate: float, layer_seconds: float) -> Machine:
    """Measured rates include reading the weights, so that the roofline has nothing to add."""
    everything = dict.fromkeys(("float32", "bfloat16"), 1.0)
    changes: dict[str, Any] = {"peak": dict.fromkeys(everything, rate), "reached": everything, "bandwidth": 1e15}
    return Machine(**{**vars(here), **changes, "layer_seconds": layer_seconds, "adapter_factor": 1.0})


def _random(shape: Shape, layers: int, dtype: str) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(getattr(torch, dtype))


def _batch(lengths: Lengths, count: int, most: int, shape: Shape) -> Packed:
    """A packed batch of average samples, shortened where it would hold more than `most` tokens."""
    scale = min(1.0, most / (count * float(lengths.tokens.mean())))
    prompt = max(1, round(scale * float(lengths.prompts.mean())))
    response = max(1, round(scale * float(lengths.responses.mean())))
    samples = [
        Sample(number, torch.randint(0, shape.vocabulary, (prompt + response,)), prompt) for number in range(count)
    ]
    packed = pack(samples)
    assert packed is not None
    return packed


def _fastest(work: Callable[[], None], device: torch.device) -> float:
    """Seconds, the least of a few after a first one that does not count, unless it takes PATIENCE by itself."""
    times: list[float] = []
    while len(times) <= REPEATS and sum(times) < PATIENCE:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:] or times)
