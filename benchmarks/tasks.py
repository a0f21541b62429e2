"""Compiled trials against NeuroGym's Dataset: microseconds a batch of 32, and their ratio.

Both draw in one process, in turns; each number is the median of its turns. Run as a script.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median

from hpr.tasks import make_task
from hpr.tasks.paper import PAPER_TASKS

TURNS = 9
COMPILED_DRAWS, COMPILED_BATCHES = 20, 320
# Dataset makes some 50 to 100 batches at once and then hands them out: several such rounds a turn.
STREAMED_BATCHES = 300
BATCH = 32


def microseconds(draw: Callable[[], None], batches: int) -> float:
    """Return the time of one of the batches that `draw` draws."""
    start = time.perf_counter()
    draw()
    return (time.perf_counter() - start) / batches * 1e6


def compare(name: str) -> tuple[float, float]:
    """Return the time a batch, in microseconds, of compiled trials and of Dataset's."""
    import neurogym

    paper, task = PAPER_TASKS[name], make_task(name)
    dataset = neurogym.Dataset(
        paper.environment,
        env_kwargs={"dt": 100, "timing": paper.timing, **paper.old_arguments},
        batch_size=BATCH,
        seq_len=task.T,
    )

    def draw_compiled() -> None:
        for first in range(0, COMPILED_DRAWS * COMPILED_BATCHES, COMPILED_BATCHES):
            task.draw(0, first, COMPILED_BATCHES, BATCH)

    def draw_streamed() -> None:
        for _ in range(STREAMED_BATCHES):
            dataset()

    turns = [
        (
            microseconds(draw_compiled, COMPILED_DRAWS * COMPILED_BATCHES),
            microseconds(draw_streamed, STREAMED_BATCHES),
        )
        for _ in range(TURNS)
    ]
    compiled, streamed = zip(*turns, strict=True)
    return median(compiled), median(streamed)


def main() -> None:
    """Print a line a task."""
    warnings.filterwarnings("ignore", message=".*WARN: ")
    print(f"{'task':6}{'compiled [us]':>16}{'Dataset [us]':>16}{'ratio':>8}")
    for name in PAPER_TASKS:
        compiled, streamed = compare(name)
        print(f"{name:6}{compiled:16.1f}{streamed:16.1f}{streamed / compiled:8.0f}")


if __name__ == "__main__":
    main()
