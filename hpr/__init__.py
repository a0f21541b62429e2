"""Rich and lazy learning in recurrent networks (Liu et al., ICLR 2024), at the speed of the machine."""

import importlib
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hpr.system.extras import install
from hpr.system.signals import leave_quietly

if TYPE_CHECKING:
    from hpr.experiment.table import results as results
    from hpr.sweeps import run_sweep as sweep
    from hpr.training.trained_network import load_network as load

__all__ = ["__version__", "load", "results", "sweep"]
__version__ = "0.2.0.dev0"

# Until a program has handlers of its own, which takes seconds, an interrupt is one line and no traceback.
_command = "".join(sys.argv[:1])
for _program in ("hpr.reproduce", "hpr.run"):
    if _command.endswith(_program.replace(".", "-")) or (
        _command == "-m" and _program in sys.orig_argv
    ):
        leave_quietly(_program)

if find_spec("numpy") is None:
    # With torch alone the kernels are installed, and not this package's requirements.
    _missing = (
        f"hpr: expected numpy, which is not installed; install what hpr needs: {install('repro')}"
    )
    # `python -m` imports this package before the command line can catch anything.
    if sys.argv[:1] == ["-m"]:
        sys.exit(_missing)
    raise ModuleNotFoundError(_missing, name="numpy")

# Names of this package that are imported when they are first used, so that `import hpr` stays light.
_LAZY = {
    "load": ("hpr.training.trained_network", "load_network"),
    "results": ("hpr.experiment.table", "results"),
    "sweep": ("hpr.sweeps", "run_sweep"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hpr' has no attribute {name!r}")
    module, own_name = _LAZY[name]
    return getattr(importlib.import_module(module), own_name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
