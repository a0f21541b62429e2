"""Rich and lazy learning in recurrent networks (Liu et al., ICLR 2024), at the speed of the machine."""

import sys
from importlib.util import find_spec

from hpr.system.extras import install
from hpr.system.signals import leave_quietly

__version__ = "0.2.0.dev0"

# Until `hpr.reproduce` has handlers of its own, which takes seconds, an interrupt is one line and no traceback.
_command = "".join(sys.argv[:1])
if _command.endswith("hpr-reproduce") or (_command == "-m" and "hpr.reproduce" in sys.orig_argv):
    leave_quietly("hpr.reproduce")

if find_spec("numpy") is None:
    # With torch alone the kernels are installed, and not this package's requirements.
    _missing = (
        f"hpr: expected numpy, which is not installed; install what hpr needs: {install('repro')}"
    )
    # `python -m` imports this package before the command line can catch anything.
    if sys.argv[:1] == ["-m"]:
        sys.exit(_missing)
    raise ModuleNotFoundError(_missing, name="numpy")
