"""Checkpoints of runs that are being trained: one safetensors file per run, from which a later process goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hpr import __version__
from hpr.experiment.kept_weights import content_hash
from hpr.experiment.specification import RunSpec
from hpr.fields import shown
from hpr.system.extras import install
from hpr.system.files import read_regular, write_atomically

if TYPE_CHECKING:
    from torch import Tensor

# Seconds of training that a killed process loses at most, unless checkpoints take longer to write than 1 % of it.
PERIOD: Final = 30.0
SCHEMA: Final = 1
# A file's header has at most this many bytes. It holds the curves and the trajectory.
HEADER: Final = 2**25

Tensors = dict[str, "Tensor"]
State = dict[str, Any]


class Checkpoints:
    """The checkpoints of unfinished runs, `<folder>/<key>.safetensors`.

    A file holds fp32 tensors and, as JSON in its metadata, the run's specification, what made the checkpoint (see
    `maker`) and a state of plain values. A checksum covers all of them. Files are written atomically and flushed to
    the disk. The folder is made by the first `save`.

    Args:
        folder: where the files are.
        period: seconds of training between two checkpoints of a run.
    """

    def __init__(self, folder: str | os.PathLike[str], period: float = PERIOD) -> None:
        if not (isinstance(period, int | float) and period >= 0):
            raise ValueError(f"period: expected seconds, at least 0, got {shown(period)}")
        if find_spec("safetensors") is None:
            raise ModuleNotFoundError(
                f"checkpoints: expected the package safetensors, got none; {install('repro')}"
            )
        self.folder, self.period = Path(folder), float(period)

    def path(self, spec: RunSpec) -> Path:
        """The file of a run."""
        return self.folder / f"{spec.key}.safetensors"

    def save(
        self, spec: RunSpec, tensors: Tensors, state: State, made_by: Mapping[str, Any]
    ) -> None:
        """Write a run's checkpoint in the place of its last one.

        Args:
            spec: the run.
            tensors: contiguous fp32 tensors on the CPU.
            state: plain values.
            made_by: what `maker` gives.

        Raises:
            OSError: the file can't be written.
        """
        from safetensors.torch import save

        content = {
            "schema": SCHEMA,
            "spec": spec.to_dict(),
            "made_by": dict(made_by),
            "state": state,
        }
        text = json.dumps(content, sort_keys=True, allow_nan=False)
        metadata = {"hpr": text, "sha256": _digest(text, tensors)}
        write_atomically(self.path(spec), save(tensors, metadata))

    def load(
        self, spec: RunSpec, shapes: Mapping[str, tuple[int, ...]], made_by: Mapping[str, Any]
    ) -> tuple[Tensors, State] | None:
        """The tensors and the state of a run's checkpoint; None where there is no file.

        Args:
            spec: the run.
            shapes: the shapes of all tensors that the file may hold.
            made_by: what `maker` gives here. A checkpoint that something else made is refused, because the record
                would not be that of an uninterrupted run.

        Raises:
            ValueError: one line; the file can't be read, is damaged, or is not this run's.
        """
        most = HEADER + sum(4 * math.prod(shape) for shape in shapes.values())
        try:
            content = read_regular(self.path(spec), most)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ValueError(error.strerror or type(error).__name__) from None
        tensors, text = _parsed(content)
        for name, tensor in tensors.items():
            got = (str(tensor.dtype), list(tensor.shape))
            if name not in shapes or got != ("torch.float32", list(shapes[name])):
                expected = list(shapes[name]) if name in shapes else "no such tensor"
                raise ValueError(f"{shown(name)}: expected {expected}, got {got[0]} {got[1]}")
        if text.pop("sha256", None) != _digest(text.get("hpr", ""), tensors):
            raise ValueError("checksum: expected that of the content, got another")
        return tensors, _state(text["hpr"], spec, made_by)

    def drop(self, spec: RunSpec) -> None:
        """Remove a run's checkpoint, and temporary files that killed processes left of it. It raises nothing."""
        path = self.path(spec)
        # A file that can't be removed does no harm: the run is in the store, and is not trained again.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            for left in self.folder.glob(f".{path.name}.*.tmp"):
                left.unlink(missing_ok=True)


def maker(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same when a run goes on from a checkpoint: versions, device, engine and commit.

    Only torch's sums depend on the number of threads, so the other engines go on with any.
    """
    return {
        "hpr": __version__,
        **provenance["versions"],
        **{name: provenance[name] for name in ("device", "engine", "git")},
        **({"threads": provenance["threads"]} if provenance["engine"] == "torch" else {}),
    }


def _digest(text: str, tensors: Tensors) -> str:
    """SHA-256 of a checkpoint's JSON, and of the names, shapes and numbers of its fp32 tensors."""
    return content_hash(text, {name: tensor.numpy() for name, tensor in tensors.items()})


def _parsed(content: bytes) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a safetensors file, and its metadata."""
    from safetensors.torch import load

    length = int.from_bytes(content[:8], "little")
    if length > HEADER:
        raise ValueError(f"header: expected at most {HEADER:,} bytes, got {length:,}")
    try:
        tensors = load(content)
    except Exception as error:
        # The library has errors of its own, and raises others for types that torch lacks.
        raise ValueError(f"expected a whole safetensors file, got {shown(str(error))}") from None
    # The library has read this header before, so it is a flat dictionary.
    metadata = json.loads(content[8 : 8 + length].decode()).get("__metadata__") or {}
    return tensors, metadata


def _state(text: str, spec: RunSpec, made_by: Mapping[str, Any]) -> State:
    """The state in a checkpoint's JSON."""
    try:
        content = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not strict JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        schema = content.get("schema") if isinstance(content, dict) else content
        raise ValueError(f"schema: expected {SCHEMA}, got {shown(schema)}")
    if content.get("spec") != spec.to_dict():
        raise ValueError(f"specification: expected that of {spec}, got another run's")
    made = content.get("made_by")
    if not isinstance(made, dict):
        raise ValueError(f"made_by: expected versions, got {shown(made)}")
    for name in dict.fromkeys((*made_by, *made)):
        if made.get(name) != made_by.get(name):
            raise ValueError(
                f"{shown(name)}: expected {shown(made_by.get(name))}, got {shown(made.get(name))}"
            )
    state = content.get("state")
    if not isinstance(state, dict):
        raise ValueError(f"state: expected a dictionary, got {shown(state)}")
    return state


def _refuse(token: str) -> NoReturn:
    raise ValueError(f"{token} is no number")
