"""What a task depends on besides its name, version and dt, as a digest that is part of its runs' keys."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

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
    """The run with its task's content, and its teacher with the same; a run that has a content keeps it.

    A run that was trained on other trials of the same name has another content, hence another key and record.
    """
    if spec.content is not None or task.content is None:
        return spec
    teacher = None if spec.teacher is None else bind(spec.teacher, task)
    return replace(spec, content=task.content, teacher=teacher)
