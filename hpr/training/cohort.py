"""Networks that train together, each from where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from hpr.experiment.specification import RunSpec
from hpr.training.autograd_step import zero_moments
from hpr.training.pack import Pack, together
from hpr.training.trainer import Trainer, held
from hpr.training.watch import Watch

Tensors = dict[str, Tensor]


@dataclass(eq=False)
class Learner:
    """A network that has trained `step` of `goal` iterations.

    `origin` is the pack of this one network that its trainer is made from. `tensors` holds what training changes of
    this one network: "weights", "readout", "velocity", "readout_velocity" and, where the run asks for them, those of
    the biases and of Adam, as `hpr.training.trainer.held` names them. It is empty while the network is in a trainer,
    which has them.
    """

    spec: RunSpec
    goal: int
    origin: Pack
    tensors: Tensors
    step: int = 0

    @property
    def pack(self) -> Pack:
        """The weights, a pack of this one network."""
        return self.origin.of(self.tensors)


def new_learner(spec: RunSpec, goal: int, origin: Pack, start: Pack | None = None) -> Learner:
    """A network before its first iteration, whose weights are those of `start`, by default of `origin`."""
    tensors = (start or origin).tensors
    return Learner(spec, goal, origin, tensors | zero_moments(tensors, spec))


class Cohort:
    """Networks of one shape on their way. Those furthest behind train first, and take in whom they reach.

    `active` are the networks that the trainer has, all at one step, in the order in which they were given.

    Args:
        learners: the networks.
        new: makes the trainer of a pack of origins.
        lanes: the networks of the trainer for a list of networks, in which these come first.
        watch: decides how many iterations are trained at once.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        new: Callable[[Pack], Trainer],
        lanes: Callable[[Sequence[int]], list[int]],
        watch: Watch,
    ) -> None:
        self._waiting = list(learners)
        self._order = {id(learner): place for place, learner in enumerate(learners)}
        self._new, self._lanes, self._watch = new, lanes, watch
        self._trainer: Trainer | None = None
        # Whether `advance` is at work or was interrupted by an error, so that weights may be those within an iteration.
        self.advancing = False
        self.active: list[Learner] = []

    def join(self) -> bool:
        """Give the trainer those that stand where it stands; return whether anyone is on the way."""
        standing = self.active or self._waiting
        step = min((learner.step for learner in standing), default=0)
        joining = [learner for learner in self._waiting if learner.step == step]
        if joining:
            self._store()
            self._waiting = [learner for learner in self._waiting if learner.step != step]
            self.active = sorted([*self.active, *joining], key=lambda one: self._order[id(one)])
            self._trainer = self._started()
        return bool(self.active)

    def advance(self, ends: Iterable[int]) -> tuple[Tensor, Tensor | None]:
        """Train the active networks on, at most to the next of `ends`.

        Returns:
            losses and, for classes, accuracies, [active or more, count] on the CPU.
        """
        assert self._trainer is not None
        clock = time.perf_counter()
        start = self.active[0].step
        marks = chain(
            ends,
            (learner.goal for learner in self.active),
            (learner.step for learner in self._waiting),
        )
        specs = [self.active[i].spec for i in self._lanes(range(len(self.active)))]
        most = min(mark for mark in marks if mark > start) - start
        count = self._watch.count(most, self._trainer.unit(specs))
        self.advancing = True
        losses, accuracies = self._trainer.window(specs, start, count)
        # This waits for a GPU.
        losses, accuracies = losses.cpu(), None if accuracies is None else accuracies.cpu()
        for learner in self.active:
            learner.step += count
        self.advancing = False
        self._watch.trained(count, time.perf_counter() - clock)
        return losses, accuracies

    def leave(self, leaving: Sequence[Learner]) -> None:
        """Take some of the active networks out of the trainer; their `tensors` are those of now."""
        if not leaving:
            return
        for learner in leaving:
            learner.tensors = self.tensors(learner)
        going = [i for i, learner in enumerate(self.active) if learner not in leaving]
        self.active = [self.active[i] for i in going]
        assert self._trainer is not None
        self._trainer = self._trainer.select(self._lanes(going)) if going else None

    def tensors(self, learner: Learner) -> Tensors:
        """What training has changed of a network until now; see `Learner`."""
        if learner not in self.active:
            return learner.tensors
        assert self._trainer is not None
        place = [self.active.index(learner)]
        return {name: tensor[place] for name, tensor in held(self._trainer).items()}

    def pack(self, learner: Learner) -> Pack:
        """The weights of a network now, a pack of this one."""
        return learner.origin.of(self.tensors(learner))

    def _store(self) -> None:
        for learner in self.active:
            learner.tensors = self.tensors(learner)

    def _started(self) -> Trainer:
        """A trainer of the active networks, which go on from where they are."""
        places = self._lanes(range(len(self.active)))
        trainer = self._new(together([self.active[i].origin for i in places]))
        for name, tensor in held(trainer).items():
            tensor.copy_(torch.cat([self.active[i].tensors[name] for i in places]))
        for learner in self.active:
            learner.tensors = {}
        return trainer
