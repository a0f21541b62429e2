"""How long an import takes, in a process of its own; and that it leaves CUDA alone is a test's business."""

from __future__ import annotations


class Imports:
    """`timeraw_`: asv runs the code in a fresh interpreter each time."""

    rounds = 1
    repeat = 3
    number = 1

    def timeraw_torch(self) -> str:
        """What neither of ours can be faster than."""
        return "import torch"

    def timeraw_hpr_kernels(self) -> str:
        """The kernels."""
        return "import hpr_kernels"

    def timeraw_reproduce(self) -> str:
        """The command line, before it knows what it is asked for."""
        return "import hpr.reproduce"
