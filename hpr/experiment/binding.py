"""Bind a run to what it depends on by content, so that its key says all that its result depends on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hpr.connectivity import drawn
from hpr.experiment.specification import RunSpec

if TYPE_CHECKING:
    from hpr.tasks import Task


def bind(spec: RunSpec, task: Task) -> RunSpec:
    """The run with the digests of its task's content and, for a structure of your own, of the weights that it draws.

    Digests that the run already has are kept. Its teacher is bound in the same way. A run that was trained on other
    trials, or from other weights, under the same names then has another key and another record.

    Raises:
        ValueError: one line, where the structure's weights are not valid, or differ from one draw to the next.
    """
    content = spec.content or task.content
    weights = spec.drawn or drawn(spec.connectivity, spec.N, spec.seed)
    teacher = None if spec.teacher is None else bind(spec.teacher, task)
    if (content, weights, teacher) == (spec.content, spec.drawn, spec.teacher):
        return spec
    return replace(spec, content=content, drawn=weights, teacher=teacher)
