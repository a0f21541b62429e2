"""A specification of junk gives one line that begins with a field's name, or a run with one stable key."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hpr import connectivity, fields
from hpr.connectivity import EM, KINDS, ChainMotif, Connectivity, Dense, LowRank, SoftRank
from hpr.experiment.specification import VARIANTS, RunSpec

SPEC = RunSpec("2AF", LowRank(rank=30), seed=3)
WORDS = [
    "2AF", "paper", "released", "euler", "exponential", "gaussian", "uniform", "frobenius", "relu",
    "linear", "two_layer", "leaky_rnn", "features", "recurrent", "0123456789abcdef", "celegans",
    "", "a\0b", "a\nb", "\ud800", "x" * 201, "em-0123456789ab", "é",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Stranger:
    gain: float = 1.0


class Rude:
    """This has no representation, no truth value and no equality."""

    def __repr__(self) -> str:
        raise RuntimeError("none")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("incomparable")

    __hash__ = None  # type: ignore[assignment]


POOL: list[Any] = [
    *WORDS, *map(np.str_, WORDS), None, True, False, np.True_, np.False_, 0, 1, -1, 7, 30, 300, 301,
    10**30, -(10**400), 2**63, 2**63 - 1, 0.0, -0.0, 0.5, 0.9, 1.0, 100.0, 1e-310, 1e308,
    float("nan"), float("inf"), -float("inf"), np.float64(-0.0), np.float32(0.3), np.float64("nan"),
    np.int8(3), np.int64(30), np.uint64(2**64 - 1), 1 + 2j, b"", b"2AF", (), (1,), ("recurrent",),
    ("recurrent", "input", "readout"), ["recurrent", "input", "readout"], [None], {}, {"kind": "svd"},
    Stranger(), Rude(), np.zeros(3), np.ones((40, 40)), np.array(1.0), torch.ones(2), torch.tensor(1),
    LowRank(rank=2), SPEC, replace(SPEC, seed=9, keep_weights=True), int, len,
]  # fmt: skip
junk = st.one_of(
    st.sampled_from(POOL),
    st.sampled_from(POOL),
    st.floats(),
    st.integers(),
    st.text(max_size=5),
    # Hypothesis prints its examples, and Python prints no integer of 5,000 digits.
    st.just(5000).map(lambda digits: 10**digits),
)
names = [field.name for field in dataclasses.fields(RunSpec)]


def changes(of: list[str], most: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.lists(st.tuples(st.sampled_from(of), junk), max_size=most).map(dict)


OWN = {kind: [field.name for field in dataclasses.fields(cls)] for kind, cls in KINDS.items()}
CHANGES = {kind: changes(own, 2) for kind, own in OWN.items()}


@st.composite
def structures(draw: st.DrawFn) -> tuple[type[Connectivity], dict[str, Any]]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    return KINDS[kind], draw(CHANGES[kind])


def one_line(error: Exception, allowed: list[str]) -> None:
    line = str(error)
    assert "\n" not in line
    found = re.match(r"\w+", line)
    assert found is not None, line
    assert found[0] in allowed, line


def stable(spec: RunSpec) -> None:
    plain = spec.to_dict()
    text = json.dumps(plain, allow_nan=False)
    again = RunSpec.from_dict(json.loads(text))
    assert again == spec == RunSpec.from_dict(plain)
    assert again.key == spec.key
    assert json.dumps(again.to_dict()) == text
    assert hash(again) == hash(spec)


def refuse_or_keep(
    structure: tuple[type[Connectivity], dict[str, Any]] | None,
    change: dict[str, Any],
    variant: str,
) -> None:
    base = replace(SPEC, variant=variant, **VARIANTS[variant])
    cls, own = structure or (type(SPEC.connectivity), None)
    allowed = [*names, *(field.name for field in dataclasses.fields(cls))]
    try:
        if own is not None:
            change = {"connectivity": cls(**own), **change}
        spec = replace(base, **change)
    except (ValueError, TypeError) as error:
        one_line(error, allowed)
    else:
        stable(spec)


@pytest.mark.parametrize("examples", [2_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_thousands_of_specifications(
    examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPR_CACHE", str(tmp_path / "cache"))
    drawn = (
        st.one_of(st.none(), structures()),
        changes(names, 3),
        st.sampled_from(sorted(VARIANTS)),
    )
    # `given` makes a function anew, which takes settings once.
    settings(max_examples=examples, phases=[Phase.generate])(given(*drawn)(refuse_or_keep))()
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=2000)
@given(changes([*names, "colour", "kind"], 3), st.booleans())
def test_a_plain_form_of_junk_is_refused_in_one_line(change: dict[str, Any], deeper: bool) -> None:
    plain = {**SPEC.to_dict(), **change}
    if deeper:
        plain["connectivity"] = {**SPEC.to_dict()["connectivity"], **change}
    try:
        spec = RunSpec.from_dict(plain)
    except ValueError as error:
        one_line(error, [*names, "run", "kind", "gain", "rank", "rescale", "distribution"])
    else:
        stable(spec)


@pytest.mark.parametrize("plain", [None, [], "spec", 3, {}], ids=str)
def test_what_is_no_plain_form_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match=r"^run specification: expected "):
        RunSpec.from_dict(plain)
    with pytest.raises(ValueError, match=r"^connectivity( kind)?: expected "):
        connectivity.from_dict(plain)


EQUAL: dict[str, tuple[Any, Any]] = {
    "momentum": (replace(SPEC, momentum=-0.0), replace(SPEC, momentum=0.0)),
    "k": (replace(SPEC, connectivity=SoftRank(k=-0.0)), replace(SPEC, connectivity=SoftRank(k=0))),
    "tau_chn": (
        replace(SPEC, connectivity=ChainMotif(tau_chn=-0.0, tau_rec=-0.0)),
        replace(SPEC, connectivity=ChainMotif(tau_chn=0.0)),
    ),
    "NumPy's": (
        RunSpec(
            np.str_("2AF"), LowRank(rank=np.int32(30), gain=np.float64(1.5)), np.int64(3),
            dt=np.int8(100), N=np.uint16(300), keep_weights=np.bool_(False), momentum=np.float64(0.9),
        ),
        SPEC,
    ),
    "a list": (replace(SPEC, ntk_parameters=["recurrent", "input", "readout"]), SPEC),
    "shuffled": (EM(shuffled=np.bool_(True)), EM(shuffled=True)),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL.values(), ids=EQUAL)
def test_equals_have_one_form(one: Any, other: Any) -> None:
    assert one == other
    assert repr(one) == repr(other)
    plain = [
        value.to_dict() if isinstance(value, RunSpec) else connectivity.to_dict(value)
        for value in (one, other)
    ]
    assert json.dumps(plain[0]) == json.dumps(plain[1])
    if isinstance(one, RunSpec):
        assert one.key == other.key


@dataclasses.dataclass(frozen=True)
class Everything:
    count: int
    size: float
    on: bool
    name: str
    way: Literal["up", "down"]
    pair: tuple[int, float]
    many: tuple[float, ...] = ()
    other: LowRank | None = None

    def __post_init__(self) -> None:
        fields.normalise(self)


GOOD: dict[str, Any] = {
    "count": 1, "size": 2.0, "on": True, "name": "a", "way": "up", "pair": (1, 2.0),
}  # fmt: skip


def test_every_kind_of_field() -> None:
    found = Everything(
        **{**GOOD, "pair": [np.int8(1), 2], "many": [1, -0.0]}, other=LowRank(rank=2)
    )
    assert repr(found) == (
        "Everything(count=1, size=2.0, on=True, name='a', way='up', pair=(1, 2.0), "
        "many=(1.0, 0.0), other=LowRank(gain=None, distribution='gaussian', rank=2, rescale='frobenius'))"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.0}, "count: expected an integer, got 1.0"),
        ({"size": True}, "size: expected a finite number, got True"),
        ({"size": 10**400}, "size: expected a finite number, got 1000"),
        ({"on": 0}, "on: expected a bool, got 0"),
        ({"name": ""}, "name: expected a line of at most 200 characters, got ''"),
        ({"way": "left"}, "way: expected one of ('up', 'down'), got 'left'"),
        ({"pair": (1,)}, "pair: expected a list of items, an integer, a finite number, got (1,)"),
        ({"many": ["a"]}, "many: expected a list of items, each a finite number, got ['a']"),
        ({"other": Dense()}, "other: expected a LowRank or None, got Dense("),
        ({"count": np.arange(3)}, "count: expected an integer, got array([0, 1, 2])"),
        ({"count": "9" * 300}, "count: expected an integer, got '999"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(next(iter(value))),
)
def test_a_wrong_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as caught:
        Everything(**{**GOOD, **change})
    assert len(str(caught.value)) < 250
