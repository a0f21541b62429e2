"""The paper's three NeuroGym tasks (Appendix C.2), with the behaviour of NeuroGym 0.0.2 or 2.3."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .compiled_task import CompiledTask
from .conditions import Bank, compile_environment
from .content import digest
from .environment import NEUROGYM_VERSION, neurogym, open_environment


@dataclass(frozen=True)
class PaperTask:
    """A task's NeuroGym environment, its periods in ms, and how version 0.0.2 differed.

    Attributes:
        environment: the NeuroGym id.
        timing: the periods' lengths in ms.
        old_arguments: arguments with which the installed environment behaves like 0.0.2.
        old_fixation: the periods in which only 0.0.2 has the fixation input on.
        old_noise: the periods in which only 0.0.2 has noise on every channel.
    """

    environment: str
    timing: dict[str, int]
    old_arguments: dict[str, Any] = field(default_factory=dict)
    old_fixation: tuple[str, ...] = ()
    old_noise: tuple[str, ...] = ()


PAPER_TASKS = {
    "2AF": PaperTask(
        "PerceptualDecisionMaking-v0",
        {"fixation": 0, "stimulus": 700, "delay": 0, "decision": 100},
        old_fixation=("stimulus", "delay"),
    ),
    "DMS": PaperTask(
        "DelayMatchSample-v0",
        {"fixation": 0, "sample": 100, "delay": 500, "test": 100, "decision": 100},
    ),
    "CXT": PaperTask(
        "ContextDecisionMaking-v0",
        {"fixation": 0, "stimulus": 200, "delay": 500, "decision": 100},
        old_arguments={"use_expl_context": True},
        old_fixation=("stimulus", "delay"),
        old_noise=("stimulus",),
    ),
}

# The NeuroGym release whose trials the figures' runs have, and the digests of the banks that it gives, by the name,
# version and dt of the figures. Because these trials are fixed, the runs' keys need no content.
PINNED_VERSION = "2.3.1"
PINNED: dict[tuple[str, str, float], str] = {
    ("2AF", "0.0.2", 100.0): "3f3e8c7972d0119d",
    ("2AF", "0.0.2", 20.0): "d78b5a6c1eb0cfbd",
    ("2AF", "2.3", 100.0): "5f0e768694d0ee94",
    ("2AF", "2.3", 20.0): "e0af2616e990af35",
    ("DMS", "0.0.2", 100.0): "3d44a01362a702a1",
    ("DMS", "0.0.2", 20.0): "8a7ad73e5c1895ff",
    ("DMS", "2.3", 100.0): "3d44a01362a702a1",
    ("DMS", "2.3", 20.0): "8a7ad73e5c1895ff",
    ("CXT", "0.0.2", 100.0): "ec161bf0118174b5",
    ("CXT", "0.0.2", 20.0): "23df328e4327f3b6",
    ("CXT", "2.3", 100.0): "bebd91578a8908e5",
    ("CXT", "2.3", 20.0): "f673eeb3e39f936b",
}

_FIXATION = 0  # channel of the fixation input in all three tasks


def paper_task(name: str, version: str, dt: float) -> CompiledTask:
    """Compile "2AF", "DMS" or "CXT".

    Args:
        name: the task.
        version: the NeuroGym version whose behaviour it has, "0.0.2" or "2.3".
        dt: time step in ms.

    Raises:
        ValueError: `dt` does not divide every period, or the installed NeuroGym gives other trials than
            `PINNED_VERSION`.
    """
    task = PAPER_TASKS[name]
    if any(length % dt for length in task.timing.values()):
        lengths = ", ".join(str(length) for length in sorted(set(task.timing.values()) - {0}))
        raise ValueError(f"dt must divide {name}'s periods, {lengths} ms, got {dt}")
    old = version != NEUROGYM_VERSION
    arguments = task.old_arguments if old else {}
    environment = open_environment(task.environment, dt, timing=task.timing, **arguments)
    bank = compile_environment(environment)
    if old:
        bank = _as_before(bank, task)
    compiled = CompiledTask(name, version, name, dt, bank, int(environment.action_space.n))
    pinned = PINNED.get((name, version, compiled.dt))
    if pinned is not None:
        # A figure must not use other trials under the paper's task name, even though their key would differ.
        if digest(compiled.N_out, *bank.parts()) != pinned:
            raise ValueError(
                f"{name}: expected the trials of NeuroGym {PINNED_VERSION}, got others of {neurogym().__version__}: "
                f"pip install neurogym=={PINNED_VERSION}"
            )
        compiled.content = None
    return compiled


def _as_before(bank: Bank, task: PaperTask) -> Bank:
    """Add the inputs and noise that only 0.0.2 had to the conditions of the installed environment."""
    inputs, noise = bank.inputs.copy(), bank.noise.copy()
    for c, periods in enumerate(bank.periods):
        for period in task.old_fixation:
            inputs[c, slice(*periods[period]), _FIXATION] = 1
        for period in task.old_noise:
            noise[c, slice(*periods[period])] = noise.max()
    return replace(bank, inputs=inputs, noise=noise)
