"""Training through the forward that scored (schedule `reuse-graph`): F(all) + 2F(kept) instead of F(all) + 3F(kept).

Every sample of a batch goes through the model with an autograd graph of its own, and its scores come from that forward.
Once the batch is decided, the graphs of dropped samples are freed, and backward goes through the others. This is exact
as long as training uses no dropout. Memory holds the graphs of a whole batch, as in plain training.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from qtuning.data.samples import Sample
from qtuning.errors import UserError
from qtuning.experiment.cell import Scorer
from qtuning.experiment.needs import ATTENTION
from qtuning.model.batch import Packed, pack_whole
from qtuning.model.head import head_of, summed_loss, token_statistics
from qtuning.model.packed import PackedModel
from qtuning.model.transfer import to_host
from qtuning.scoring.scores import Observation, batch_scores, pack_responses


@dataclass(frozen=True)
class Graphs:
    """The autograd graphs of the samples of a batch.

    hidden: place of the sample in the batch -> [L, H] hidden states of all its positions, which hold the graph.
    """

    hidden: dict[int, Tensor]

    def keep_only(self, places: Collection[int]) -> None:
        """Free the graphs of all other samples."""
        for place in self.hidden.keys() - set(places):
            del self.hidden[place]

    def loss(self, model: PackedModel, packed: Packed) -> tuple[Tensor, Tensor]:
        """What `model(packed)` returns, computed from these graphs and not from a new forward.

        packed: the kept tokens, on the model's device; its rows are places in the batch.
        """
        starts = [0, *accumulate(packed.lengths[:-1])]
        parts = packed.source.split(packed.counts)
        rows = [
            self.hidden[place].index_select(0, source - start)
            for place, source, start in zip(packed.rows, parts, starts, strict=True)
        ]
        return summed_loss(torch.cat(rows), head_of(model.causal_lm), packed.labels, packed.weights)


def observe_with_graphs(
    model: PackedModel,
    samples: Sequence[Sample],
    needs: Collection[str],
    device: torch.device,
    impl: Scorer = "chunked",
) -> tuple[Observation, Graphs]:
    """What `observe` returns for scores, and the graphs of its forward. Raises NonFinite."""
    everywhere = "sequence-entropy" in needs
    packed = pack_whole(samples, "everywhere") if everywhere else pack_responses(samples)
    on_device = packed.to(device)
    hidden = [states[0] for states in model.hidden_by_segment(on_device)]
    with torch.no_grad():
        rows = torch.cat(hidden).index_select(0, on_device.source)
        found = token_statistics(rows, head_of(model.causal_lm), on_device.labels, impl=impl)
    nll, entropy = to_host(found)
    observation = Observation(packed, 1.0, batch_scores(samples, nll, entropy, everywhere), None)
    return observation, Graphs(dict(zip(packed.rows, hidden, strict=True)))


def require_reusable(model: PackedModel, needs: Collection[str], pruned_tokens: str) -> None:
    """UserError unless the forward that scores a batch is the one that would train its kept samples."""
    if (reason := why_not_reusable(model, needs, pruned_tokens)) is not None:
        raise UserError(f"options.scoring.schedule = 'reuse-graph': {reason} (schedule fresh decides the same)")


def why_not_reusable(model: PackedModel, needs: Collection[str], pruned_tokens: str) -> str | None:
    """What stands against it, or None."""
    config = model.causal_lm.config.get_text_config().to_dict()
    named = [key for key in config if ("dropout" in key or key.endswith("pdrop")) and not key.startswith("classifier")]
    dropouts = [key for key in named if isinstance(config[key], float) and config[key] > 0]
    dropouts += [name for name, part in model.named_modules() if isinstance(part, nn.Dropout) and part.p > 0]
    reasons = {
        "knows scores only, and this method needs attention": bool(ATTENTION & set(needs)),
        "trains what it scored, and pruned_tokens = 'remove' takes tokens out": pruned_tokens == "remove",
        f"scores in training mode, where {''.join(dropouts[:1])} would blur the scores; set it to 0": bool(dropouts),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)
