"""What pyproject.toml cannot say: the README as an index shows it, and the C kernels for each instruction set."""

from __future__ import annotations

import atexit
import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = "kernels/hpr_kernels/native"
# -ffp-contract=off keeps the compiler from fusing what the source does not fuse, so every build gives the same bits.
FLAGS = ["-O3", "-g0", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=default"]
TARGETS = {
    "x86_64": {"avx512": ["-march=x86-64-v4"], "avx2": ["-march=x86-64-v3"], "baseline": []},
    "aarch64": {"neon": []},
    "arm64": {"neon": []},
}


class build_kernels(build_ext):  # setuptools shows this name in its messages
    """Compiles `kernels.c` once per instruction set and type; without a compiler the installation has no kernels."""

    def build_extension(self, extension: Extension) -> None:
        """Compile and link the kernels; a target that this compiler does not know is left out."""
        for isa, flags in TARGETS.get(platform.machine(), {"baseline": []}).items():
            for real in ("float", "double"):
                try:
                    extension.extra_objects += self.compiler.compile(
                        [f"{NATIVE}/kernels.c"],
                        output_dir=f"{self.build_temp}/{isa}_{real}",
                        macros=[("ISA", isa), ("REAL", real)],
                        extra_postargs=[*FLAGS, *flags],
                        depends=extension.depends,
                    )
                except CompileError:
                    if not flags:
                        raise
        super().build_extension(extension)


def description() -> str:
    """README.md without the checkout's pictures, its links to files of the checkout turned into their names."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[[^\]]*\]\((?!https?://)[^)]*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\((?!https?://|#)[^)]*\)", r"\1", text)


def elsewhere() -> dict[str, dict[str, str]]:
    """Options that put what is built into a temporary folder, where this one is read-only."""
    if os.access(".", os.W_OK):
        return {}
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"egg_info": {"egg_base": folder}, "build": {"build_base": folder}}


kernels = Extension(
    "hpr_kernels.native._kernels",
    [f"{NATIVE}/isa.c"],
    depends=[str(path) for path in sorted(Path(NATIVE).glob("*.[ch]"))],
    optional=True,
    # The library uses nothing of Python, so one build serves every version.
    py_limited_api=True,
)
setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    # Windows has neither of the two compilers that the kernels are written for.
    ext_modules=[] if platform.system() == "Windows" else [kernels],
    cmdclass={"build_ext": build_kernels},
    options={"bdist_wheel": {"py_limited_api": "cp310"}, **elsewhere()},
)
