"""The process that holds a vLLM engine. It runs in vLLM's environment, so it imports nothing of qtuning.

`PYTHON vllm_engine.py SETTINGS` (JSON): starts the engine and writes `{"ready": true}`. Then each line on standard
input names a cell, its adapter and a file; the engine answers all questions under that adapter, writes the file, and
one line that says so. It ends with its standard input, or with the process that started it. What it writes goes to the
file descriptor `answers`, because vLLM prints to standard output.
"""

import json
import os
import sys
import threading
import time
from typing import Any

OLDEST = (0, 32)


def answer(engine: Any, questions: dict[str, Any], lora: Any) -> dict[str, Any]:
    """{"generated": tokens of each generation, "scores": [log-likelihood in nats, greedy] of each pair}."""
    from vllm import SamplingParams

    kinds = [
        SamplingParams(
            temperature=0.0, max_tokens=kind["most"], stop=kind["stops"], stop_token_ids=questions["ends"],
            # a stop text may be the text of a special token
            skip_special_tokens=False,
        )
        for kind in questions["kinds"]
    ]  # fmt: skip
    # prompt_logprobs = 0: of the prompt's own tokens, and their ranks
    scored = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    def run(prompts: list[list[int]], sampling: Any) -> list[Any]:
        wanted = [{"prompt_token_ids": tokens} for tokens in prompts]
        return engine.generate(wanted, sampling, lora_request=lora, use_tqdm=False) if wanted else []

    generations = questions["generations"]
    made = run([tokens for _, tokens in generations], [kinds[kind] for kind, _ in generations])
    pairs = questions["pairs"]
    seen = run([tokens for _, tokens in pairs], [scored] * len(pairs))
    scores = []
    for (count, tokens), output in zip(pairs, seen, strict=True):
        of_answer = range(len(tokens) - count, len(tokens))
        found = [output.prompt_logprobs[place][tokens[place]] for place in of_answer]
        scores.append([sum(each.logprob for each in found), all(each.rank == 1 for each in found)])
    return {"generated": [list(output.outputs[0].token_ids) for output in made], "scores": scores}


def main() -> None:
    """Serve until standard input ends."""
    settings = json.loads(sys.argv[1])
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with open(settings["questions"], encoding="utf-8") as file:
        questions = json.load(file)
    import torch
    import transformers
    import vllm
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    version = vllm.__version__
    if "dev" not in version and tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        sys.exit(f"error: vLLM {version}: must be {oldest} or newer, since older ones do not know GPUs by UUID")
    engine = LLM(**settings["engine"])
    modules = (vllm, torch, transformers)
    about = {
        "versions": {module.__name__: module.__version__ for module in modules},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    with os.fdopen(settings["answers"], "w", encoding="utf-8") as answers:
        print(json.dumps({"ready": True}), file=answers, flush=True)
        # names and numbers of adapters must differ, since cached prefixes are told apart by them
        for number, line in enumerate(sys.stdin, start=1):
            asked = json.loads(line)
            lora = LoRARequest(asked["cell"], number, asked["adapter"]) if asked["adapter"] else None
            started = time.monotonic()
            found = answer(engine, questions, lora)
            seconds = round(time.monotonic() - started, 3)
            with open(asked["out"], "w", encoding="utf-8") as file:
                json.dump(found | about | {"seconds": seconds}, file)
            print(json.dumps({"cell": asked["cell"]}), file=answers, flush=True)


def _end_with(parent: int) -> None:
    """End this process, and so free its GPU, once its parent has died."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main()
