"""How long an import takes, in a process of its own. A test, not a benchmark, checks that it leaves CUDA alone."""

from __future__ import annotations


class Imports:
    """`timeraw_`: asv runs the code in a fresh interpreter each time."""

    rounds = 1
    repeat = 3
    number = 1

    def timeraw_torch(self) -> str:
        """Torch alone: both of ours import it, and cannot be faster."""
        return "import torch"

    def timeraw_hpr_kernels(self) -> str:
        """The kernels."""
        return "import hpr_kernels"

    def timeraw_reproduce(self) -> str:
        """The command line, before it knows what it is asked for."""
        return "import hpr.reproduce"
