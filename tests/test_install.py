"""These tests ask the index, and no local wheels, what installs on other machines; and check the wheel's metadata."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import BytesParser
from pathlib import Path

import pytest

import hpr
import hpr_kernels

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
LINUX, MAC = "x86_64-manylinux_2_28", "aarch64-apple-darwin"
CONSTRAINED = ("-c", "constraints.txt")


def resolve(python: str, *what: str, platform: str = LINUX) -> dict[str, str]:
    """Return the packages and versions that an install takes from the index, from wheels where there are any.

    Fail with the resolver's reason where there is no solution.
    """
    local = ("UV_", "PIP_")
    # torch's wheels for macOS begin at macOS 14.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "--no-config", "pip", "compile", "--quiet"),
            *("--no-header", "--no-annotate", "--python-version", python),
            *("--python-platform", platform, *what),
        ],
        cwd=ROOT,
        env={"MACOSX_DEPLOYMENT_TARGET": "14.0"}
        | {name: value for name, value in os.environ.items() if not name.startswith(local)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = (line.partition(" ;")[0] for line in done.stdout.splitlines())
    return dict(line.strip().split("==") for line in lines)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    small = tmp_path_factory.mktemp("index") / "small.in"
    small.write_text("tqdm\n", encoding="utf-8")
    try:
        resolve("3.12", str(small))
    except AssertionError as error:
        if re.search("network|connect|dns|offline", str(error), re.IGNORECASE):
            pytest.skip(f"no package index is reached: {str(error).splitlines()[0]}")


@pytest.mark.parametrize(
    "python",
    [pytest.param(one, marks=[pytest.mark.nightly] * (one != "3.11")) for one in PYTHONS],
)
@pytest.mark.usefixtures("index")
def test_the_tested_versions_install(python: str) -> None:
    """All extras install together in one environment, so each of them installs alone too."""
    wheels = ["--only-binary", ":all:"]
    if python == "3.14":
        # NeuroGym needs a numpy older than the first with wheels for 3.14, so pip compiles it there.
        wheels += ["--no-binary", "numpy"]
    found = resolve(python, "pyproject.toml", *CONSTRAINED, *wheels, "--all-extras")
    assert found["torch"] == "2.13.0"
    # This is the Triton that this torch was built with and asks for.
    assert found["triton"] == "3.7.1"
    assert found["neurogym"] == "2.3.1"


@pytest.mark.usefixtures("index")
@pytest.mark.nightly
def test_the_tested_versions_install_on_a_mac() -> None:
    wheels = ["--only-binary", ":all:", "--extra", "repro"]
    found = resolve("3.12", "pyproject.toml", *CONSTRAINED, *wheels, platform=MAC)
    assert "triton" not in found


@pytest.mark.parametrize("torch", ["2.6", "2.9", "2.11", "2.14"])
@pytest.mark.usefixtures("index")
def test_every_torch_that_the_metadata_promises_installs(torch: str, tmp_path: Path) -> None:
    pin = tmp_path / "constraints.txt"
    pin.write_text(f"torch=={torch}.*\n", encoding="utf-8")
    wheels = ["--only-binary", ":all:", "--all-extras"]
    found = resolve("3.11", "pyproject.toml", "-c", str(pin), *wheels)
    assert found["torch"].startswith(f"{torch}.")


@pytest.mark.parametrize("python", PYTHONS[::4])
@pytest.mark.usefixtures("index")
@pytest.mark.nightly
def test_the_kernels_install_torch_and_nothing_else(python: str, tmp_path: Path) -> None:
    alone = tmp_path / "torch.in"
    alone.write_text("torch==2.13.0\n", encoding="utf-8")
    assert resolve(python, "pyproject.toml", *CONSTRAINED) == resolve(python, str(alone))


def tracked(source: Path) -> Path:
    """Copy what git tracks to a folder, and return the folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = tracked(folder / "source")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, *build, "--wheel-dir", str(folder), str(source)], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return BytesParser().parsebytes(archive.read(name))


def test_one_version_everywhere(metadata: Message) -> None:
    assert metadata["Version"] == hpr.__version__ == hpr_kernels.__version__


def test_the_base_requires_torch_alone(metadata: Message) -> None:
    required = metadata.get_all("Requires-Dist") or []
    assert [line for line in required if "extra ==" not in line] == ["torch>=2.6"]
    # A version of Triton beside torch's own makes torch impossible to install.
    (triton,) = (line for line in required if line.startswith("triton"))
    assert triton.startswith("triton; ")
    assert re.search("extra == .dev.", triton)


def test_the_wheel_holds_both_packages_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    sources = [name.removeprefix("kernels/") for name in listed.stdout.splitlines()]
    ours = {name for name in sources if name.startswith(("hpr/", "hpr_kernels/"))}
    there = {name for name in ours if (ROOT / name).exists() or (ROOT / "kernels" / name).exists()}
    compiled = {"hpr_kernels/native/_kernels.abi3.so"}
    assert names == {name for name in there if not name.endswith((".c", ".h"))} | compiled


def test_without_a_compiler_torch_serves_and_the_report_says_so(tmp_path: Path) -> None:
    """The package installs where PATH and CC lead to no compiler."""
    site = tmp_path / "site"
    environment = {**os.environ, "PATH": str(tmp_path), "CC": "none", "TRITON_INTERPRET": "1"}
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    kernel = "import torch, hpr_kernels as k; print(k.ntk(torch.nn.Linear(2, 1), torch.ones(2, 2)))"
    said = [
        subprocess.run(
            [sys.executable, *command],
            env=environment | {"PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        ).stdout
        for command in (
            [*install, "--target", str(site), str(tracked(tmp_path / "source"))],
            ["-c", f"{kernel}; print(k.__file__)"],
            ["-m", "hpr_kernels.report", "--cpu"],
        )
    ]
    assert not list(site.glob("hpr_kernels/native/*.so"))
    assert "[3., 3.]" in said[1]
    assert str(site) in said[1]
    assert said[2] == "CPU: torch; the installation has built no C kernels\n"


# Refuses what a read-only file system refuses, to root too, in every Python process.
READ_ONLY = """
import os, sys

def inside(path):
    return isinstance(path, (str, bytes)) and os.path.abspath(os.fsdecode(path)).startswith({source!r})

def refuse(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if (writes or event == "os.mkdir") and inside(arguments[0]):
        raise OSError(30, "Read-only file system", arguments[0])

def access(path, mode, plain=os.access, **how):
    return plain(path, mode, **how) and not (mode & os.W_OK and inside(os.path.abspath(path)))

sys.addaudithook(refuse)
os.access = access
"""


def test_a_read_only_folder_installs(tmp_path: Path) -> None:
    source, site = tracked(tmp_path / "source"), tmp_path / "site"
    before = {*source.rglob("*")}
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(
        READ_ONLY.format(source=str(source)), encoding="utf-8"
    )
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [sys.executable, *install, "--target", str(site), str(source)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "hook")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(site.glob("hpr_kernels/native/*.so"))
    assert {*source.rglob("*")} == before


def test_the_description_stands_without_the_checkout(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.lstrip().startswith("# hpr")
    relative = re.findall(r"\]\((?!https?://|#)[^)]*\)", text)
    assert relative == []
