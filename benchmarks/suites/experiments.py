"""The work around training: trials, initial weights, the measures, the store."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from .measure import Timed


class Trials(Timed):
    """Drawing 100 batches of 32."""

    param_names = ("task",)
    params = (("2AF", "DMS", "CXT", "sDigits", "pattern generation"),)

    def setup(self, name: str) -> None:
        """Compile the task."""
        from hpr.tasks import make_task

        self.task = make_task(name)

    def time_draw(self, _: str) -> None:
        """100 batches at once."""
        self.task.draw(0, 0, 100, 32)


class Connectivity(Timed):
    """An initial matrix of 300 units (EM: of 297, the number of its cells)."""

    param_names = ("structure",)
    params = (("Dense", "LowRank", "SoftRank", "CellTypes", "ChainMotif", "EM", "Dale"),)

    def setup(self, name: str) -> None:
        """Make the structure."""
        from hpr import connectivity

        arguments = {"rank": 30} if name == "LowRank" else {}
        self.structure = getattr(connectivity, name)(**arguments)
        self.N = 297 if name == "EM" else 300

    def time_draw(self, _: str) -> None:
        """Draw weights and rescale them to the norm of the null."""
        self.structure.draw(self.N, 0)


class Measures(Timed):
    """The measures of two kernels of 768 rows."""

    def setup(self) -> None:
        """Draw two random kernels."""
        import torch

        rng = torch.Generator().manual_seed(0)
        J = torch.randn(2, 768, 800, generator=rng)
        self.before, self.after = J @ J.mT

    def time_alignment(self) -> None:
        """Kernel alignment, in fp64."""
        from hpr.laziness import alignment

        alignment(self.before, self.after)

    def time_effective_rank(self) -> None:
        """Tr K / λ_1."""
        from hpr.laziness import kernel_effective_rank

        kernel_effective_rank(self.before)


class Store(Timed):
    """A store that holds 500 runs."""

    def setup(self) -> None:
        """Save the runs."""
        self.folder = tempfile.TemporaryDirectory()
        self.store, self.specs = filled(Path(self.folder.name), 500)

    def teardown(self) -> None:
        """Remove the folder."""
        self.folder.cleanup()

    def time_load(self) -> None:
        """Find one run and check it."""
        self.store.load(self.specs[250])

    def time_save(self) -> None:
        """Write one run, flushed to the disk."""
        self.store.save(record(self.specs[250]))


def record(spec: Any) -> dict[str, Any]:
    """A finished run's record with curves of a hundred points."""
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "finished",
        "iterations": spec.iterations,
        "curves": {"iteration": list(range(100)), "loss": [1 / 3] * 100},
        "measures": {"kernel_alignment": 1 / 3},
        "flags": [],
        "provenance": {},
        "timings": {},
    }


def filled(folder: Path, runs: int) -> tuple[Any, list[Any]]:
    """A store that holds `runs` runs, and their specifications."""
    from hpr.connectivity import LowRank
    from hpr.experiment.record import sealed
    from hpr.experiment.specification import RunSpec
    from hpr.experiment.store import Store

    store = Store(folder)
    store.prepare()
    specs = [RunSpec("2AF", LowRank(rank=1), seed=seed) for seed in range(runs)]
    for spec in specs:
        # `save` waits for the disk, which takes most of its time.
        store.path(spec).write_bytes(sealed(record(spec)))
    return store, specs
