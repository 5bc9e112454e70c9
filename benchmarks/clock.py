"""Times that can be compared: variants alternate in both orders, after one warm-up, and ratios are paired."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Action = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of each variant in each pass; passes are in order, so that equal indices ran next to each other."""

    seconds: Mapping[str, list[float]]

    def milliseconds(self, name: str) -> float:
        """Median over the passes."""
        return 1000 * statistics.median(self.seconds[name])

    def ratio(self, name: str, to: str, factor: float = 1.0) -> float:
        """Median over the passes of time(name) / (factor * time(to)) in the same pass."""
        return statistics.median(self._ratios(name, to, factor))

    def spread(self, name: str, to: str, factor: float = 1.0) -> str:
        """The smallest and the largest of these ratios: what the neighbours did to them."""
        ratios = self._ratios(name, to, factor)
        return f"{min(ratios):.2f} to {max(ratios):.2f}"

    def _ratios(self, name: str, to: str, factor: float) -> list[float]:
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return [one / (factor * other) for one, other in pairs]


def seconds(action: Action, device: torch.device) -> float:
    """Processor time (user + system) of this process on a CPU; wall time between synchronisations on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        action()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start
    start = time.process_time()
    action()
    return time.process_time() - start


def alternate(variants: Mapping[str, Action], passes: int, device: torch.device) -> Times:
    """Run all variants `passes` times, every second time in the reverse order, after one run that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    gc.collect()
    gc.disable()  # a collection takes longer than some of the variants
    try:
        for index in range(passes + 1):
            for name in list(variants)[:: 1 if index % 2 == 0 else -1]:
                spent = seconds(variants[name], device)
                if index:
                    taken[name].append(spent)
    finally:
        gc.enable()
    return Times(taken)
