"""Which kinds of packs of a plan are worth timing."""

from __future__ import annotations

from hpr.experiment.plan import Plan
from hpr.experiment.specification import RunSpec

# Kinds of packs are timed until they hold this share of the FLOPs, and at most this many.
SHARE = 0.95
KINDS = 6
# Tasks that are downloaded where they are not on this machine.
DOWNLOADED = ("sMNIST", "MNIST")


def costliest(left: Plan, *, mnist_there: bool) -> list[list[RunSpec]]:
    """The largest pack of each of the kinds that have most of the FLOPs of a plan, the costliest kind first."""
    flops: dict[RunSpec, float] = {}
    largest: dict[RunSpec, list[RunSpec]] = {}
    for pack, price in zip(left.packs, left.costs, strict=True):
        shape = pack[0].shape
        if shape.task in DOWNLOADED and not mnist_there:
            continue
        flops[shape] = flops.get(shape, 0.0) + price.flops
        if len(pack) > len(largest.get(shape, ())):
            largest[shape] = pack
    chosen: list[list[RunSpec]] = []
    missing = sum(flops.values())
    enough = (1 - SHARE) * missing
    for shape in sorted(flops, key=lambda shape: -flops[shape])[:KINDS]:
        if missing < enough:
            break
        chosen.append(largest[shape])
        missing -= flops[shape]
    return chosen
