"""A task whose trials are arrays, from a .npz or from Python, kept in the cache under a hash of their content."""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hpr.system.arrays import stored_arrays
from hpr.system.files import write_to_cache
from hpr.system.paths import cache_folder

from .base import Split, Task, Trials
from .content import digest
from .counter import random_words

PREFIX: Final = "trials:"
# The arrays that may be given; the first two must be.
NAMES: Final = ("inputs", "targets", "evaluation_inputs", "evaluation_targets")

Arrays = dict[str, np.ndarray]


class ArrayTask(Task):
    """Trials drawn at random, with replacement, from n given ones.

    Integer targets [n, T] are classes and [n] the class of a whole trial, which the loss then counts at the last step;
    real targets [n, T, N_out] are desired outputs. Evaluation trials come from the evaluation arrays where they are
    given, and otherwise from the same trials as training.
    """

    version = "1"

    def __init__(self, name: str, arrays: Arrays) -> None:
        """Take the name that `keep_trials` gave, and arrays as `check_trials` returns them."""
        self.name, self._arrays = name, arrays
        self.label = name.removeprefix(PREFIX).rpartition("-")[0]
        inputs, targets = arrays["inputs"], arrays["targets"]
        n, self.T, self.N_in = inputs.shape
        if targets.dtype == np.int64:
            labels = [arrays[key] for key in NAMES[1::2] if key in arrays]
            self.N_out = int(max(each.max() for each in labels)) + 1
            self.loss_steps = "last" if targets.ndim == 1 else "all"
        else:
            self.loss, self.N_out = "mse", targets.shape[2]
        self.frozen = n == 1 and "evaluation_inputs" not in arrays
        self.content = _digest(arrays)

    def _draw(self, seed: int, start: int, count: int, batch: int, split: Split) -> Trials:
        prefix = (
            "evaluation_" if split == "evaluation" and "evaluation_inputs" in self._arrays else ""
        )
        inputs, targets = self._arrays[f"{prefix}inputs"], self._arrays[f"{prefix}targets"]
        if targets.ndim == 1:
            targets = np.repeat(targets[:, None], self.T, axis=1)
        key = (self.name, self.version, seed, batch, split)
        words = [random_words(batch, step, *key) for step in range(start, start + count)]
        rows = (np.stack(words) % np.uint64(len(inputs))).astype(np.int64)  # [K, B]
        return Trials(
            np.ascontiguousarray(inputs[rows].swapaxes(1, 2)),
            np.ascontiguousarray(targets[rows].swapaxes(1, 2)),
        )


def read_trials(path: str | os.PathLike[str]) -> Arrays:
    """Read the arrays of a .npz; nothing is unpickled, and shapes are checked before numbers are read.

    Raises:
        ValueError: one line that names the file and what is wrong in it.
        OSError: the file can't be read.
    """
    file = Path(path)
    if file.suffix != ".npz":
        raise ValueError(
            f"{file}: expected a .npz with the arrays inputs and targets, got another file"
        )
    arrays = stored_arrays(file)
    _check_names(arrays, str(file))
    return check_trials({name: array.read() for name, array in arrays.items()}, str(file))


def check_trials(arrays: Mapping[str, Any], where: str) -> Arrays:
    """The arrays of trials in their one form: inputs float32, classes int64, desired outputs float32.

    Raises:
        ValueError: one line that begins with `where`.
    """
    _check_names(arrays, where)
    found: Arrays = {}
    for name in NAMES:
        if name in arrays:
            array = np.asarray(arrays[name])
            found[name] = _inputs(array, f"{where}: {name}") if "inputs" in name else array
    for inputs, targets in zip(NAMES[::2], NAMES[1::2], strict=True):
        if (inputs in found) != (targets in found):
            raise ValueError(f"{where}: expected both {inputs} and {targets}, got one of them")
        if targets in found:
            found[targets] = _targets(found[targets], found[inputs], f"{where}: {targets}")
    labels = [found[name] for name in NAMES[1::2] if name in found]
    if found["targets"].dtype == np.int64 and not any(each.any() for each in labels):
        raise ValueError(f"{where}: targets: expected two classes or more, got 0 alone")
    for of in NAMES[:2]:
        train, evaluation = found[of], found.get(f"evaluation_{of}", found[of])
        if (train.dtype, train.shape[1:]) != (evaluation.dtype, evaluation.shape[1:]):
            raise ValueError(
                f"{where}: expected evaluation_{of} of {train.dtype} {list(train.shape[1:])} per trial as {of} are, "
                f"got {evaluation.dtype} {list(evaluation.shape[1:])}"
            )
    return found


def keep_trials(arrays: Arrays, name: str = "trials", *, write: bool = True) -> str:
    """Store arrays that `check_trials` returned in the cache, and return the name of their task.

    The name is "trials:<name>-<hash>". With `write` off nothing is stored, and this process alone knows the name.

    Raises:
        OSError: one line, when the cache can't be written.
    """
    stem = re.sub(r"\W+", "_", name, flags=re.ASCII)[:100] or "trials"
    full = f"{PREFIX}{stem}-{_digest(arrays)[:12]}"
    _known[full] = arrays
    path = _kept(full)
    if write and not path.is_file():
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        write_to_cache(path, content.getvalue())
    return full


_known: dict[str, Arrays] = {}


def open_trials(name: str) -> ArrayTask:
    """The task of a name that `keep_trials` gave.

    Raises:
        ValueError: one line; the cache has no such trials, or their content is not what the name says.
        OSError: they can't be read.
    """
    if name not in _known:
        path = _kept(name)
        if not re.fullmatch(rf"{PREFIX}\w+-[0-9a-f]{{12}}", name) or not path.is_file():
            raise ValueError(f"task: expected trials that are kept in {path.parent}, got {name!r}")
        arrays = read_trials(path)
        if not name.endswith(_digest(arrays)[:12]):
            raise ValueError(f"task: expected the content of {name!r}, got another in {path}")
        _known[name] = arrays
    return ArrayTask(name, _known[name])


def _kept(name: str) -> Path:
    return cache_folder() / "trials" / f"{name.removeprefix(PREFIX)}.npz"


def _digest(arrays: Arrays) -> str:
    return digest(*(part for name in sorted(arrays) for part in (name, arrays[name])))


def _check_names(arrays: Mapping[str, Any], where: str) -> None:
    for name in arrays:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{where}: expected arrays among {', '.join(NAMES)}, got {name!r}{hint}"
            )
    for name in NAMES[:2]:
        if name not in arrays:
            raise ValueError(f"{where}: expected the arrays inputs and targets, got no {name}")


def _inputs(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 3 or not array.size:
        raise ValueError(f"{where}: expected the shape [trials, T, N_in], got {list(array.shape)}")
    return _real(array, where)


def _targets(array: np.ndarray, inputs: np.ndarray, where: str) -> np.ndarray:
    n, T = inputs.shape[:2]
    if array.dtype.kind in "biu":
        if array.shape not in ((n,), (n, T)):
            raise ValueError(
                f"{where}: expected classes [trials] = [{n}] or [trials, T] = [{n}, {T}], got {list(array.shape)}"
            )
        if array.min() < 0 or array.max() >= 2**16:
            wrong = array.min() if array.min() < 0 else array.max()
            raise ValueError(f"{where}: expected classes from 0 to 65,535, got {wrong}")
        return np.ascontiguousarray(array.astype(np.int64))
    if array.shape == (n, T):
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[:2] != (n, T) or not array.size:
        raise ValueError(
            f"{where}: expected desired outputs [trials, T, N_out] = [{n}, {T}, N_out], got {list(array.shape)}"
        )
    return _real(array, where)


def _real(array: np.ndarray, where: str) -> np.ndarray:
    """The array in float32, which networks are trained in."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where}: expected real numbers, got the type {array.dtype}")
    bad = array.size - int((np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max).sum())
    if bad:
        raise ValueError(
            f"{where}: expected finite float32 numbers, got {bad} NaN, infinite or beyond"
        )
    return np.ascontiguousarray(array.astype(np.float32)) + np.float32(0)
