"""How many iterations runs take that may stop early, from finished runs of the same settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from hpr.experiment.inventory import Kept, read_kept
from hpr.experiment.plan import Plan
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store

# Finished runs that are read per setting.
FINISHED = 5


def known_iterations(
    asked: Sequence[RunSpec], left: Plan, store: Store
) -> Callable[[RunSpec], float | None]:
    """A function that tells how many iterations a run will take; it gives None where a stop can't be foreseen.

    A run that may stop at an accuracy is expected to take the mean of finished runs that differ in the seed alone.

    Args:
        asked: the runs asked for.
        left: the plan of those that are not finished.
        store: where the others are. Nothing is written there.
    """
    waiting = {spec for pack in left.packs for spec in pack} | set(left.unreadable)
    stopping = {_settings(spec) for spec in waiting if spec.stop_accuracy is not None}
    finished: dict[tuple[object, ...], list[int]] = {}
    for spec in asked if stopping else ():
        of = _settings(spec)
        if spec in waiting or of not in stopping or len(finished.get(of, ())) == FINISHED:
            continue
        kept = read_kept(store.path(spec))
        if isinstance(kept, Kept):
            finished.setdefault(of, []).append(kept.record["iterations"])
    means = {of: fmean(counts) for of, counts in finished.items()}

    def iterations(spec: RunSpec) -> float | None:
        return float(spec.iterations) if spec.stop_accuracy is None else means.get(_settings(spec))

    return iterations


def _settings(spec: RunSpec) -> tuple[object, ...]:
    """What runs that differ in their seeds alone have in common."""
    return spec.shape, spec.connectivity, spec.aligned
