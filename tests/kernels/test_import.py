"""The import of `hpr_kernels` needs torch alone."""

from __future__ import annotations

import subprocess
import sys

FOREIGN = ("hpr", "triton", "neurogym", "gymnasium", "scipy", "matplotlib", "pandas")


def test_import_pulls_in_nothing_else() -> None:
    probe = (
        "import sys, hpr_kernels, hpr_kernels.testing, hpr_kernels.update;"
        f"print([name for name in {FOREIGN} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_survives_without_what_it_does_not_need() -> None:
    """The import works where the foreign packages cannot be imported, as on a machine that has torch alone."""
    probe = f"import sys; sys.modules.update(dict.fromkeys({FOREIGN})); import hpr_kernels"
    subprocess.run([sys.executable, "-c", probe], check=True)
