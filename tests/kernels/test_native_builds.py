"""Every build of the C kernels gives the same bits: compilers, instruction sets, sanitizers, an emulated ARM."""

from __future__ import annotations

import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = (
    "-std=gnu11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-DISA=any",
    "-Wall",
    "-Wextra",
    "-Werror",
)
X86 = platform.machine() == "x86_64"
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@cache
def has(feature: str) -> bool:
    """Whether this CPU has an instruction set, by the names in /proc/cpuinfo."""
    return feature in Path("/proc/cpuinfo").read_text("utf-8").split()


def found(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def printed(folder: Path, real: str, *compiler: str, runner: tuple[str, ...] = ()) -> str:
    """What the harness prints when it was compiled so."""
    program = folder / "harness"
    source = ROOT / "tests" / "native" / "harness.c"
    build = [*compiler, *FLAGS, f"-DREAL={real}", str(source), "-o", str(program), "-lm"]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([*runner, str(program)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module", params=["float", "double"])
def expected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """A type, and what the plainest build for it prints."""
    found("gcc")
    return request.param, printed(tmp_path_factory.mktemp("plain"), request.param, "gcc", "-O1")


@pytest.mark.parametrize(
    ("feature", "compiler"),
    [
        ("avx2", ("gcc", "-O3", "-march=x86-64-v3")),
        pytest.param("avx2", ("gcc", "-O2", "-march=native"), marks=pytest.mark.nightly),
        pytest.param("avx2", ("gcc", "-O3", "-march=x86-64-v2"), marks=pytest.mark.nightly),
        ("avx512f", ("gcc", "-O3", "-march=x86-64-v4")),
        ("avx2", ("clang", "-O3", "-march=x86-64-v3")),
        ("avx2", ("gcc", *SANITIZED, "-march=x86-64-v3")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_on_this_cpu(
    expected: tuple[str, str], feature: str, compiler: tuple[str, ...], tmp_path: Path
) -> None:
    found(compiler[0])
    if not X86 or not has(feature):
        pytest.skip(f"needs a CPU with {feature}")
    real, lines = expected
    assert printed(tmp_path, real, *compiler) == lines


def test_on_an_emulated_arm(expected: tuple[str, str], tmp_path: Path) -> None:
    """NEON, by qemu."""
    found("aarch64-linux-gnu-gcc", "qemu-aarch64")
    real, lines = expected
    compiler = ("aarch64-linux-gnu-gcc", "-O3", "-static")
    assert printed(tmp_path, real, *compiler, runner=("qemu-aarch64",)) == lines


def test_no_register_is_spilled_for_avx512(tmp_path: Path) -> None:
    """A CPU without AVX-512 cannot run this code, but the compiler's choice can be read."""
    found("gcc", "objdump")
    if not X86:
        pytest.skip("needs a compiler for x86-64")
    kernels = ROOT / "kernels" / "hpr_kernels" / "native" / "kernels.c"
    objects = tmp_path / "kernels.o"
    build = ["gcc", "-O3", "-march=x86-64-v4", *FLAGS, "-DREAL=float", "-c", str(kernels)]
    subprocess.run([*build, "-o", str(objects)], check=True)
    dump = subprocess.run(
        ["objdump", "-d", str(objects)], capture_output=True, text=True, check=True
    )
    lines = dump.stdout.splitlines()
    assert sum("vfmadd" in line and "zmm" in line for line in lines) > 100
    assert [line for line in lines if "zmm" in line and "(%rsp" in line and "vfmadd" in line] == []
