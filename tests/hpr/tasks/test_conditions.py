"""The compiler, on small environments that each show one right or wrong behaviour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hpr.tasks.compiled_task import CompiledTask
from hpr.tasks.conditions import Bank, compile_environment
from hpr.tasks.script import NotEnumerable

pytest.importorskip("neurogym")

from neurogym.core import TrialEnv
from neurogym.utils import spaces


class Toy(TrialEnv):
    """Three steps of two inputs; `make` defines the trial."""

    def __init__(self, make: Callable[[Any], None], stimulus: Any = 200) -> None:
        super().__init__(dt=100)
        self.timing = {"stimulus": stimulus, "decision": 100}
        self.observation_space = spaces.Box(-np.inf, np.inf, shape=(2,), dtype=np.float32)
        self.action_space = spaces.Discrete(4)
        self.make = make
        self.seen = 0

    def _new_trial(self, **kwargs: Any) -> dict[str, Any]:
        self.add_period(["stimulus", "decision"])
        self.add_ob(0)
        self.set_groundtruth(0)
        self.make(self)
        return {}


def target(environment: Any, value: int) -> None:
    environment.set_groundtruth(int(value), "decision")


def summary(make: Callable[[Any], None]) -> dict[int, Any]:
    """Compile an environment and return the probability of each target."""
    bank = compile_environment(Toy(make))
    assert bank.probability.sum() == pytest.approx(1)
    return {
        int(y): pytest.approx(bank.probability[bank.targets[:, 2] == y].sum(), abs=1e-12)
        for y in np.unique(bank.targets[:, 2])
    }


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda rng: rng.choice([1, 2]), {1: 0.5, 2: 0.5}),
        (lambda rng: rng.choice(3), {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}),
        (lambda rng: rng.choice([1, 2, 3], p=[0.2, 0, 0.8]), {1: 0.2, 3: 0.8}),
        (lambda rng: rng.choice([1, 1, 3]), {1: 2 / 3, 3: 1 / 3}),
        (lambda rng: rng.choice([0, 1], size=2).sum(), {0: 0.25, 1: 0.5, 2: 0.25}),
        (lambda rng: rng.choice([0, 1, 2], 2, replace=False).sum(), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}),
        (lambda rng: rng.choice(3, 2, False, [0.5, 0.5, 0]).sum(), {1: 1}),
        (lambda rng: rng.randint(1, 4), {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}),
        (lambda rng: rng.randint(2), {0: 0.5, 1: 0.5}),
        (lambda rng: rng.randint(0, 2, size=(2, 1)).sum(), {0: 0.25, 1: 0.5, 2: 0.25}),
        (lambda rng: rng.permutation([1, 2, 3])[1], {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}),
        (lambda rng: rng.permutation(2)[0], {0: 0.5, 1: 0.5}),
        (lambda rng: rng.choice([1, 2]) if rng.choice(2) else 3, {1: 0.25, 2: 0.25, 3: 0.5}),
    ],
    ids=[
        "choice",
        "choice of a number",
        "choice with odds",
        "choice of equals",
        "two choices",
        "two different choices",
        "two different choices with odds",
        "randint",
        "randint of one bound",
        "randint of a shape",
        "permutation",
        "permutation of a number",
        "nested draws",
    ],
)
def test_discrete_draws_are_enumerated(
    draw: Callable[[Any], int], expected: dict[int, float]
) -> None:
    got = summary(lambda environment: target(environment, draw(environment.rng)))
    assert got == expected
    # The environment's own generator gives no other answers.
    environment = Toy(lambda environment: target(environment, draw(environment.rng)))
    environment.seed(0)
    for _ in range(50):
        environment.new_trial()
        assert int(environment.gt[2]) in expected


def test_shuffle_is_enumerated() -> None:
    def make(environment: Any) -> None:
        cards = [1, 2, 3]
        environment.rng.shuffle(cards)
        target(environment, cards[0])

    assert summary(make) == {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}


def test_conditions_that_look_alike_are_one() -> None:
    bank = compile_environment(Toy(lambda environment: environment.rng.choice(4)))
    assert len(bank.inputs) == 1
    assert bank.probability == pytest.approx([1])


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: 0.25 * rng.randn(*shape),
        lambda rng, shape: rng.normal(0, 0.25, shape),
        lambda rng, shape: rng.normal(np.zeros(shape), 0.25),
        lambda rng, shape: rng.standard_normal(shape) * -0.25,
    ],
    ids=["randn", "normal of a size", "normal of arrays", "standard_normal, negative"],
)
def test_noise_is_measured(draw: Callable[[Any, tuple[int, int]], np.ndarray]) -> None:
    def make(environment: Any) -> None:
        environment.view_ob("stimulus")[:] += draw(environment.rng, (2, 2))
        environment.view_ob("decision")[:, 1] += environment.rng.normal(1.0, 0.1)

    bank = compile_environment(Toy(make))
    expected = np.array([[[0.25, 0.25], [0.25, 0.25], [0, 0.1]]], np.float32)
    np.testing.assert_array_equal(bank.noise, expected)
    np.testing.assert_array_equal(bank.inputs, [[[0, 0], [0, 0], [0, 1]]])


def test_noise_that_is_overwritten_does_not_count() -> None:
    def make(environment: Any) -> None:
        environment.add_randn(0, 0.5)
        environment.set_ob(0, "decision")

    assert np.all(
        compile_environment(Toy(make)).noise[0, :, 0] == np.array([0.5, 0.5, 0], np.float32)
    )


def test_noise_may_depend_on_the_condition() -> None:
    def make(environment: Any) -> None:
        level = environment.rng.choice([1, 2])
        environment.add_randn(0, level / 4, "stimulus", where=1)
        target(environment, level)

    bank = compile_environment(Toy(make))
    drawn = CompiledTask("toy", "2.3", "toy", 100.0, bank, 4).draw(0, 0, 200, 32)
    for level in (1, 2):
        noise = drawn.inputs.transpose(0, 2, 1, 3)[drawn.targets[:, 2] == level]
        assert noise[:, :2, 1].std() == pytest.approx(level / 4, rel=0.03)
        assert np.all(noise[:, 2] == 0)
        assert np.all(noise[:, :, 0] == 0)


def test_periods_may_depend_on_the_condition() -> None:
    class Shifting(Toy):
        def _new_trial(self, **kwargs: Any) -> dict[str, Any]:
            length = self.rng.choice([100, 200])
            self.add_period("stimulus", duration=length)
            self.add_period("decision", duration=300 - length, after="stimulus")
            self.add_ob(1, "stimulus")
            self.set_groundtruth(1, "decision")
            return {}

    bank = compile_environment(Shifting(lambda environment: None))
    assert [periods["stimulus"] for periods in bank.periods] == [(0, 1), (0, 2)]
    np.testing.assert_array_equal(bank.targets, [[0, 1, 1], [0, 0, 1]])


def counts_trials(environment: Any) -> None:
    environment.seen += 1


def alternates(environment: Any) -> None:
    environment.seen = 1 - environment.seen
    target(environment, environment.seen)


def draws_now_and_then(environment: Any) -> None:
    environment.seen += 1
    if environment.seen % 3 == 0:
        target(environment, environment.rng.choice(2))


def uses_other_randomness(environment: Any) -> None:
    environment.add_ob(np.random.default_rng().random())


def adds_one_number_twice(environment: Any) -> None:
    environment.add_ob(environment.rng.randn())


def adds_two_numbers(environment: Any) -> None:
    environment.add_randn(0, 1, "stimulus")
    environment.add_randn(0, 1, "stimulus")


def rectifies_noise(environment: Any) -> None:
    environment.add_ob(np.abs(environment.rng.randn(3, 2)))


def decides_by_noise(environment: Any) -> None:
    target(environment, environment.rng.randn() > 0.5)


def draws_forever(environment: Any) -> None:
    while environment.rng.choice(2) == 0:
        pass


def has_too_many_conditions(environment: Any) -> None:
    environment.rng.choice(2, size=13)


def draws_from_many(environment: Any) -> None:
    environment.rng.randint(10_000)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda environment: environment.rng.uniform(), "uniform"),
        (lambda environment: environment.rng.rand(), "rand"),
        (lambda environment: environment.rng.exponential(3), "exponential"),
        (counts_trials, "earlier ones"),
        (alternates, "earlier ones"),
        (draws_now_and_then, "earlier ones"),
        (uses_other_randomness, "earlier ones"),
        (adds_one_number_twice, "not independent and added"),
        (adds_two_numbers, "not independent and added"),
        (rectifies_noise, "not independent and added"),
        (decides_by_noise, "more than the inputs"),
        (draws_forever, "over 1024 draws|over 4096 conditions"),
        (has_too_many_conditions, "over 4096 conditions"),
        (draws_from_many, "one of 10000 whole numbers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_finite_is_refused(make: Callable[[Any], None], reason: str) -> None:
    with pytest.raises(NotEnumerable, match=reason):
        compile_environment(Toy(make))


def test_trials_of_several_lengths_are_refused() -> None:
    with pytest.raises(NotEnumerable, match="differ in length"):
        compile_environment(Toy(lambda environment: None, stimulus=[100, 200]))


def test_a_periods_own_generator_is_not_missed() -> None:
    from neurogym.utils.ngym_random import TruncExp

    with pytest.raises(NotEnumerable, match="exponential"):
        compile_environment(Toy(lambda environment: None, stimulus=TruncExp(300, 100, 900)))


def test_banks_are_equal_if_all_their_parts_are() -> None:
    bank = compile_environment(Toy(lambda environment: None))
    again = compile_environment(Toy(lambda environment: None))
    other = compile_environment(Toy(lambda environment: target(environment, 1)))
    assert bank.equals(again)
    assert not bank.equals(other)
    assert isinstance(bank, Bank)
