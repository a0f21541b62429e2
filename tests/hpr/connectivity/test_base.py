"""All structures share the null's draw and norm, have a plain form, and name what is wrong in errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from hpr import connectivity
from hpr.connectivity import (
    EM,
    KINDS,
    CellTypes,
    ChainMotif,
    Connectivity,
    Dale,
    Dense,
    LowRank,
    SoftRank,
    from_matrix,
)

OWN = np.random.default_rng(0).normal(size=(60, 60)) ** 3
STRUCTURES: dict[str, tuple[Connectivity, int]] = {
    "svd": (LowRank(rank=3), 60),
    "soft rank": (SoftRank(k=2.5), 60),
    "cell types, touching": (CellTypes(fraction=0.1), 60),
    "cell types, within": (CellTypes(fraction=0.1, connections="within"), 60),
    "chains, over": (ChainMotif(tau_chn=0.03), 60),
    "chains, under": (ChainMotif(tau_chn=-0.1, tau_rec=0.1), 60),
    "EM": (EM(), 297),
    "EM, shuffled": (EM(shuffled=True), 297),
    "own matrix": (from_matrix(OWN, write=False), 60),
    "own matrix, shuffled": (from_matrix(OWN, shuffled=True, write=False), 60),
    "Dale": (Dale(), 60),
    "Dale throughout": (Dale(dale_throughout=True, excitatory=0.5), 60),
}


@pytest.mark.parametrize(("structure", "N"), STRUCTURES.values(), ids=STRUCTURES)
def test_every_structure_has_the_norm_of_its_seeds_null(structure: Connectivity, N: int) -> None:
    for seed in (0, 1):
        W, null = structure.draw(N, seed), Dense().draw(N, seed)
        assert W.shape == (N, N)
        np.testing.assert_allclose(np.linalg.norm(W), np.linalg.norm(null), rtol=1e-12)
        assert not np.allclose(W, null)
    np.testing.assert_array_equal(structure.draw(N, 1), W)


@pytest.mark.parametrize(("structure", "N"), STRUCTURES.values(), ids=STRUCTURES)
def test_round_trip(structure: Connectivity, N: int) -> None:
    plain = json.loads(json.dumps(connectivity.to_dict(structure)))
    assert connectivity.from_dict(plain) == structure
    assert structure.label


def test_every_kind_is_tried_here() -> None:
    assert {structure.kind for structure, _ in STRUCTURES.values()} | {"dense"} == set(KINDS)


def test_a_seed_has_one_gaussian_for_all_that_can_share_it() -> None:
    """With one gain everywhere, cell types are the null itself; a chain motif without covariance is the null too."""
    null = Dense().draw(50, 7)
    for structure in (
        CellTypes(hyperexcitable=0.8),
        ChainMotif(tau_chn=0.0),
        LowRank(rank=50),
    ):
        np.testing.assert_allclose(structure.draw(50, 7), null, atol=1e-12)
    magnitude = np.abs(Dale(excitatory=0.5).draw(50, 7))
    off = ~np.eye(50, dtype=bool)
    order = np.argsort(np.abs(null[off]))
    assert np.all(np.diff(magnitude[off][order]) >= 0)


def test_a_draw_is_the_first_of_the_seeds_streams() -> None:
    """Input and readout weights come from the other two streams, so all structures of a seed share them."""
    first = np.random.SeedSequence(3).spawn(3)[0]
    expected = Dense().weights(20, np.random.Generator(np.random.Philox(first)))
    np.testing.assert_array_equal(Dense().draw(20, 3), expected)


BAD: dict[str, tuple[Any, str]] = {
    "gain": (lambda: Dense(gain=0), "gain: expected a positive finite number, got 0"),
    "gain NaN": (
        lambda: Dale(gain=float("nan")),
        "gain: expected a finite number or None, got nan",
    ),
    "gain in words": (
        lambda: EM(gain="high"),
        "gain: expected a finite number or None, got 'high'",
    ),  # type: ignore[arg-type]
    "N": (lambda: Dense().check(0), "N: expected at least 1 unit, got 0"),
    "kind": (lambda: connectivity.from_dict({"kind": "ring"}), "connectivity kind: expected one"),
    "k": (lambda: SoftRank(k=-1), "k: expected an exponent of at least 0, got -1.0"),
    "k infinite": (lambda: SoftRank(k=float("inf")), "k: expected a finite number, got inf"),
    "fraction": (lambda: CellTypes(fraction=1.5), r"fraction: expected a share in \(0, 1\)"),
    "no hyperexcitable": (
        lambda: CellTypes().draw(20, 0),
        r"fraction: expected from 1 to N - 1 = 19 hyperexcitable units, got 0 \(0.02 of 20\)",
    ),
    "gain of rest": (lambda: CellTypes(rest=0), "rest: expected a positive finite number, got 0"),
    "connections": (
        lambda: CellTypes(connections="across"),  # type: ignore[arg-type]
        "connections: expected one of",
    ),
    "excitatory": (lambda: Dale(excitatory=1), r"excitatory: expected a share in \(0, 1\)"),
    "no inhibitory": (
        lambda: Dale(excitatory=0.3).draw(3, 0),
        "excitatory: expected from 1 to N - 1 = 2 excitatory units, got 0",
    ),
    "throughout": (
        lambda: Dale(dale_throughout=1),  # type: ignore[arg-type]
        "dale_throughout: expected a bool, got 1",
    ),
    "chain bound": (
        lambda: ChainMotif(tau_chn=0.03, tau_con=0.01, tau_div=0.04),
        r"tau_chn: expected at most sqrt\(tau_con tau_div\) = 0.02 in magnitude, got 0.03",
    ),
    "chain bound, under": (
        lambda: ChainMotif(tau_chn=-0.1, tau_con=0.0),
        r"tau_chn: expected at most sqrt\(tau_con tau_div\) = 0 in magnitude, got -0.1",
    ),
    "convergent": (lambda: ChainMotif(tau_con=-0.1), "tau_con: expected at least 0, got -0.1"),
    "reciprocal": (
        lambda: ChainMotif(tau_rec=1.1),
        r"tau_rec: expected \|tau_rec - 2 tau_chn\| of at most .* = 0.94, got 1.04",
    ),
    "EM's N": (
        lambda: EM().check_data(300),
        "N: expected the 297 cells of the connectome 'celegans'",
    ),
    "shuffled": (lambda: EM(shuffled="yes"), "shuffled: expected a bool, got 'yes'"),  # type: ignore[arg-type]
    "connectome": (
        lambda: EM(connectome="fly").draw(297, 0),
        "connectome: expected 'celegans' or one kept in .*, got 'fly'",
    ),
    "connectome's path": (
        lambda: EM(connectome="../../etc/passwd-0123456789ab").check_data(1),
        "connectome: expected 'celegans' or one kept in ",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
