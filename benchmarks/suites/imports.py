"""How long an import takes in a fresh process. `tests/benchmarks/test_suites.py` checks that none starts CUDA."""

from __future__ import annotations


class Imports:
    """Code that asv runs in a fresh interpreter each time, as the prefix `timeraw_` asks."""

    rounds = 1
    repeat = 3
    number = 1

    def timeraw_torch(self) -> str:
        """Torch alone: the two below import it, so they cannot be faster."""
        return "import torch"

    def timeraw_hpr_kernels(self) -> str:
        """The kernels."""
        return "import hpr_kernels"

    def timeraw_reproduce(self) -> str:
        """The command line, before it parses its arguments."""
        return "import hpr.reproduce"
