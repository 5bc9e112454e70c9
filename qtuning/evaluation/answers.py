"""Log-likelihoods of several answers to each prompt, in one forward a prompt.

The sequence of a prompt is a tree: the prompt and its first answer are the trunk; every other answer branches off where
it begins to differ. A token attends to its ancestors and has the position that it would have without the other answers,
so its hidden state is that of its answer alone. Only hidden states that predict an answer go through the head, a few at
a time, in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from qtuning.model.flops import CHUNK
from qtuning.model.head import head_of
from qtuning.model.packed import causal_lm_of
from qtuning.model.transfer import to_device, to_host

Scores = tuple[float, bool]  # log-likelihood of an answer in nats, and whether greedy decoding would write it
TokenPair = tuple[list[int], list[int]]  # prompt, answer

FORWARD_TOKENS = 16_384
"""Most tokens of a forward, padding included; a tree that is longer goes alone."""
CACHE_TOKENS = 2048
"""The same on a CPU, where what fits in its cache is fastest."""
MASK_ENTRIES = 2**26
"""Most entries of the attention masks of a forward."""


@dataclass(frozen=True)
class Tree:
    """The answers to one prompt as one sequence of L tokens.

    tokens, positions: [L]. branches: (start, end, parent): nodes start to end - 1 attend to trunk nodes before
    `parent`, and to each other. sources: node that predicts each answer token; targets: that token; one array for each
    answer.
    """

    tokens: list[int]
    positions: list[int]
    branches: tuple[tuple[int, int, int], ...]
    sources: tuple[NDArray[np.int64], ...]
    targets: tuple[NDArray[np.int64], ...]

    def fill(self, mask: NDArray[np.bool_]) -> None:
        """mask [>= L, >= L], all False: set what each node sees. A node beyond L sees itself."""
        np.fill_diagonal(mask, True)
        trunk = self.branches[0][0] if self.branches else len(self.tokens)
        mask[:trunk, :trunk] = np.tri(trunk, dtype=bool)
        for start, end, parent in self.branches:
            mask[start:end, :parent] = True
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)


def tree_of(prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> Tree:
    """The tree of some answers, of at least one token each. The last token of an answer predicts nothing."""
    first = answers[0]
    tokens, positions = [*prompt, *first[:-1]], list(range(len(prompt) + len(first) - 1))
    branches, sources = [], []
    for answer in answers:
        # the same tokens up to here, as far as the trunk has a node for them
        shared = next((i for i, (a, b) in enumerate(zip(answer, first, strict=False)) if a != b), len(answer))
        shared = min(shared, len(answer) - 1, len(first) - 1)
        start, parent = len(tokens), len(prompt) + shared
        tokens += answer[shared:-1]
        positions += range(parent, len(prompt) + len(answer) - 1)
        if len(tokens) > start:
            branches.append((start, len(tokens), parent))
        trunk = np.arange(len(prompt) - 1, parent)
        sources.append(np.concatenate([trunk, np.arange(start, len(tokens))]))
    targets = tuple(np.array(answer) for answer in answers)
    return Tree(tokens, positions, tuple(branches), tuple(sources), targets)


class AnswerScorer:
    """Scores answers under a causal language model of transformers, which peft may have wrapped."""

    def __init__(self, model: nn.Module, max_length: int, batch_size: int, alone: bool = False) -> None:
        """max_length: tokens that go through the model at once. batch_size: most prompts of a forward. alone: every
        answer is a sequence of its own, for models whose attention takes no mask."""
        self.causal_lm: PreTrainedModel = causal_lm_of(model)
        self.max_length, self.batch_size, self.alone = max_length, batch_size, alone
        config = self.causal_lm.config.get_text_config()
        self.window = getattr(config, "sliding_window", None) or max_length

    @torch.no_grad()
    def score(self, pairs: Sequence[TokenPair], told: Callable[[int], None] = lambda more: None) -> list[Scores]:
        """In the order of `pairs`. What is too long loses its beginning, as in lm-eval.

        told: called after each forward with how many answers it scored.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        answers: list[list[int]] = []
        for place, (prompt, answer) in enumerate(pairs):
            whole = (prompt + answer)[-(self.max_length + 1) :]
            kept = min(len(answer), self.max_length)
            answers.append(answer[len(answer) - kept :])
            context = tuple(whole[: len(whole) - kept])
            # a mask of ours knows no sliding window
            single = self.alone or len(whole) > self.window
            groups.setdefault((*context, -1 - place) if single else context, []).append(place)
        trees = {
            key: tree_of([token for token in key if token >= 0], [answers[place] for place in places])
            for key, places in groups.items()
        }
        order = sorted(groups, key=lambda key: -len(trees[key].tokens))
        found: list[Scores] = [(0.0, True)] * len(pairs)
        for batch in self._batches(order, trees):
            of_batch = self._forward([trees[key] for key in batch])
            for place, scores in zip((place for key in batch for place in groups[key]), of_batch, strict=True):
                found[place] = scores
            told(len(of_batch))
        return found

    def _batches(
        self, order: Sequence[tuple[int, ...]], trees: dict[tuple[int, ...], Tree]
    ) -> list[list[tuple[int, ...]]]:
        """Prompts of one forward, the longest first. Trees with branches and without are not mixed."""
        room = FORWARD_TOKENS if self.causal_lm.device.type == "cuda" else CACHE_TOKENS
        batches: list[list[tuple[int, ...]]] = []
        for branched in (True, False):
            batch: list[tuple[int, ...]] = []
            for key in (key for key in order if bool(trees[key].branches) == branched):
                longest = len(trees[batch[0]].tokens) if batch else len(trees[key].tokens)
                rows = len(batch) + 1
                full = rows > self.batch_size or rows * longest > room or rows * longest**2 > MASK_ENTRIES
                if batch and full:
                    batches.append(batch)
                    batch = []
                batch.append(key)
            batches += [batch] if batch else []
        return batches

    def _forward(self, trees: Sequence[Tree]) -> list[Scores]:
        """The scores of all answers of these trees, one after the other."""
        model, length = self.causal_lm, max(len(tree.tokens) for tree in trees)
        tokens, positions = np.zeros((2, len(trees), length), dtype=np.int64)
        for row, tree in enumerate(trees):
            tokens[row, : len(tree.tokens)] = tree.tokens
            positions[row, : len(tree.tokens)] = tree.positions
        sources = [row * length + places for row, tree in enumerate(trees) for places in tree.sources]
        targets = [places for tree in trees for places in tree.targets]
        arrays = [tokens, positions, np.concatenate(sources), np.concatenate(targets)]
        branched = any(tree.branches for tree in trees)  # of right-padded sequences, causal attention is enough
        if branched:
            arrays.append(np.zeros((len(trees), length, length), dtype=bool))
            for row, tree in enumerate(trees):
                tree.fill(arrays[-1][row])
        ids, places, predicting, wanted, *seen = to_device([torch.from_numpy(array) for array in arrays], model.device)
        mask = None
        if branched:
            mask = torch.zeros(seen[0].shape, dtype=model.dtype, device=model.device)
            mask = mask.masked_fill_(~seen[0], torch.finfo(model.dtype).min)[:, None]
        hidden = getattr(model, model.base_model_prefix)(
            input_ids=ids, position_ids=places, attention_mask=mask, use_cache=False
        ).last_hidden_state
        log_p, greedy = self._log_probabilities(hidden.flatten(0, 1).index_select(0, predicting), wanted)
        counts = [len(answer) for answer in targets]
        parts = zip(log_p.split(counts), greedy.split(counts), strict=True)
        return [(float(values.sum()), bool(best.all())) for values, best in parts]

    def _log_probabilities(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [M, H], targets [M] -> log p of each target, and whether it is the likeliest; [M] each, on the CPU."""
        head = head_of(self.causal_lm)
        log_p = torch.empty(len(targets), device=targets.device)
        greedy = torch.empty(len(targets), dtype=torch.bool, device=targets.device)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = head.logits(hidden[part])
            wanted = logits.gather(1, targets[part, None]).squeeze(1)
            log_p[part] = wanted - logits.logsumexp(dim=-1)
            greedy[part] = logits.argmax(dim=-1) == targets[part]
        log_p, greedy = to_host([log_p, greedy])
        return log_p, greedy
