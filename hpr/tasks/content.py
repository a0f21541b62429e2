"""What runs depend on besides what their specifications name, as digests that are part of their keys."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hpr.connectivity import drawn

from .base import Task

if TYPE_CHECKING:
    from hpr.runs import RunSpec


def digest(*parts: object) -> str:
    """16 hexadecimal digits: a hash of arrays, by shape, type and bytes, and of the representations of all else."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            what, content = f"{part.dtype.str} {part.shape}", part.tobytes()
        else:
            what, content = "text", repr(part).encode()
        found.update(f"{what} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def bind(spec: RunSpec, task: Task) -> RunSpec:
    """The run with what it depends on by content, its teacher with the same; what it already has it keeps.

    That is its task's content and, of a structure of your own, the weights that it draws. A run that was trained on
    other trials or from other weights under the same names has another key, hence another record.

    Raises:
        ValueError: one line, where the structure's weights are none or not to be drawn again.
    """
    content = spec.content or task.content
    weights = spec.drawn or drawn(spec.connectivity, spec.N, spec.seed)
    teacher = None if spec.teacher is None else bind(spec.teacher, task)
    if (content, weights, teacher) == (spec.content, spec.drawn, spec.teacher):
        return spec
    return replace(spec, content=content, drawn=weights, teacher=teacher)
