"""`--probe`: how fast this machine is with models of these shapes. Imports torch.

A model of random weights with the widths and the vocabulary of the real one, but at most LAYERS layers, trains on a few
packed batches and generates a few tokens. Its rate, and what a layer of it costs, are then taken for all layers.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from qtuning.model.batch import Packed, Sample, pack
from qtuning.plan.jobs import Jobs, Scores, Training
from qtuning.plan.lengths import Lengths
from qtuning.plan.machines import Machine, machines
from qtuning.plan.shapes import Shape

LAYERS = 2
TOKENS = {"cpu": 128, "cuda": 4096}  # of a batch, at most
WORK = {"cpu": 4e10, "cuda": 4e14}  # FLOPs of a batch, at most: seconds on a slow machine of that kind
REPEATS, AT_LEAST = 2, 0.3  # of each measurement, and seconds
PATIENCE = 10.0  # seconds
ROWS, STEPS = 8, 6  # of the generation


def probe(jobs: Jobs) -> tuple[Machine, dict[tuple[str, str], Machine]]:
    """This machine, and as what it appears to each model in training and in evaluation, of what is to do."""
    device, here = _device(), this_machine()
    to_measure: dict[tuple[str, str], Callable[[], Machine]] = {}
    for job in jobs.trainings.values():
        if not job.done:
            to_measure.setdefault((job.cell.model.name, "training"), partial(_as_trainer, here, job, device))
    for asked in jobs.scores.values():
        if not asked.done:
            key = asked.cell.model.name, f"evaluation {asked.evaluation.dtype}"
            to_measure.setdefault(key, partial(_as_answerer, here, asked, device))
    found: dict[tuple[str, str], Machine] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workflow's jobs have it by default
    with tqdm(to_measure.items(), unit="model", desc="probe") as bar:
        for (model, stage), measure in bar:
            bar.set_postfix_str(f"{model}, {stage}")
            found[model, stage] = measure()
    torch.set_num_threads(threads)
    return Machine(**{**vars(here), "label": f"{here.label}, probed"}), found


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def this_machine() -> Machine:
    """Its memory and its name; of its speed what is published of one like it."""
    device = _device()
    if device.type == "cpu":
        base = machines()["cpu"]
        label = "this machine, one CPU thread"
        return Machine(**{**vars(base), "name": "probe", "label": label})
    base, properties = machines()["h100"], torch.cuda.get_device_properties(device)
    label = properties.name
    return Machine(**{**vars(base), "name": "probe", "label": label, "memory": float(properties.total_memory)})


def _as_trainer(here: Machine, job: Training, device: torch.device) -> Machine:
    """The machine with the rate of a training step of this job's model."""
    from qtuning.model.packed import PackedModel
    from qtuning.train.cost import shape_of

    training, layers = job.cell.training, min(LAYERS, job.shape.layers)
    assert training is not None
    lora = training.tuning == "lora"
    model = _random(job.shape, layers, job.cell.dtype)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=training.lora.r, target_modules="all-linear"))  # type: ignore[arg-type]
    wrapped = PackedModel(model).to(device).train()
    most = _affordable(model, device, passes=3)
    whole, single = (_batch(job.lengths, count, most, job.shape) for count in (training.batch_size, 1))
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
    model = _random(job.shape, layers, dtype).to(device).eval()
    prompt = min(prompt, max(4, _affordable(model, device, passes=1) // ROWS))
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


def _affordable(model: nn.Module, device: torch.device, passes: int) -> int:
    """Tokens of a batch that costs WORK at most, by 2 FLOPs a parameter, token and pass."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    return min(TOKENS[device.type], max(8, int(WORK[device.type] / (2 * passes * weights))))


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
    while (len(times) <= REPEATS or sum(times) < AT_LEAST) and sum(times) < PATIENCE:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:] or times)
