"""Take each barrier, fence, commit and wait out of each kernel: the emulator notices, or the table says why it cannot.

`uncaught_removals.csv` has those that nobody misses, each with a reason that is computed from the launch. A compiler
that adds one, or a kernel that changes, fails here until the table is made anew and read.
"""

from __future__ import annotations

import numpy as np
import pytest
from ptx_cases import program_of
from ptx_emulator.launch import Kernel, Pointer, Prepared
from ptx_emulator.removal import REASONS, SYNCHRONISATION, Bench, remove, synchronisations
from tensor_cases import COMMIT, TRY_WAIT
from uncaught_removals import REMOVED_FROM, Uncaught, subjects, table

# Each kernel, each kind of synchronisation. On 10.0, A in tensor memory, and pipelined products of A in shared memory.
SAMPLED = {
    "9.0": ("forward, tf32x3", "adjoints, tf32", "gram, tf32x3", "alignment, tf32", "update, tf32x3",
            "update, constrained, tight rows, ieee", "cross-entropy, tf32x3"),
    "10.0": ("gram, tf32x3", "alignment, two sets, no diagonal, tf32"),
}  # fmt: skip


def rows(name: str, cards: str | None = None) -> list[Uncaught]:
    """The table's rows of a launch."""
    return [one for one in table() if one.launch == name and cards in (None, one.cards)]


@pytest.mark.emulated(80)
@pytest.mark.parametrize("name", REMOVED_FROM)
def test_every_removal_is_caught_or_listed(name: str) -> None:
    pytest.importorskip("triton")
    assert [one for subject in subjects(name) for one in subject.uncaught()] == rows(name)


@pytest.mark.emulated(90)
@pytest.mark.parametrize(("name", "card"), [(n, card) for card in SAMPLED for n in SAMPLED[card]])
def test_first_removal_of_each_kind(name: str, card: str) -> None:
    """A sample of the test above, on 9.0 and on 10.0."""
    pytest.importorskip("triton")
    [subject] = subjects(name, card)
    places = subject.firsts()
    expected = [one for one in rows(name, subject.cards) if one.place in places]
    assert list(subject.uncaught(places)) == expected


def test_the_table_has_launches_and_reasons_that_exist() -> None:
    listed = table()
    assert {one.launch for one in listed} <= set(REMOVED_FROM)
    assert {reason for one in listed for reason in one.reason.split(", ")} <= set(REASONS)
    assert "not executed" not in {one.reason for one in listed}
    assert len({one[:3] for one in listed}) == len(listed)


# Two warps; each thread has a word of `%r2` on, and of `%r4` in the other warp.
BETWEEN = """xor.b32 %r4, %r2, 128; st.shared.b32 [%r2], %r1; bar.sync 0; {before} bar.sync 0; {after} bar.sync 0;
ld.shared.b32 %r20, [%r4]; st.global.b32 [%rd5], %r20;"""
ORDERS = {
    ("", "ld.shared.b32 %r5, [%r4];"): "nothing before",
    ("ld.shared.b32 %r5, [%r4];", ""): "nothing after",
    ("ld.shared.b32 %r5, [%r4];", "ld.shared.b32 %r6, [%r2];"): "only reads",
    ("st.shared.b32 [%r2 + 256], 5;", "st.shared.b32 [%r2], %r1;"): "other words",
    ("st.shared.b32 [%r2], 5;", "st.shared.b32 [%r2], %r1;"): "own words",
    ("st.shared.b32 [%r2], 5;", "ld.shared.b32 %r5, [%r4];"): "",
    ("ld.shared.b32 %r5, [%r4];", "st.shared.b32 [%r2], %r1;"): "",
}  # fmt: skip


def bench(body: str) -> Bench:
    """A launch of `body` by 64 threads."""
    program = program_of(body, 64)
    given = [Pointer.to(np.arange(256, dtype=np.uint32)) for _ in range(2)]
    return Bench(Prepared(Kernel(program, 4096, ""), [*given, np.array([0], np.uint32)], 1))


@pytest.mark.parametrize("between", ORDERS, ids=lambda between: ORDERS[between] or "missed")
def test_reasons_of_a_barrier(between: tuple[str, str]) -> None:
    found = remove([bench(BETWEEN.format(before=between[0], after=between[1]))], 1)
    assert found.reason == ORDERS[between]
    assert bool(found.fault) == (not found.reason)


COPIES = """shl.b32 %r3, %r1, 4; mul.wide.u32 %rd6, %r1, 16; add.s64 %rd6, %rd1, %rd6; {first}
cp.async.cg.shared.global [%r3], [%rd6], 0x10; cp.async.commit_group;
cp.async.cg.shared.global [%r3 + 1024], [%rd6], 0x10; cp.async.commit_group;
cp.async.wait_group {keep}; bar.sync 0; {read} cp.async.wait_group 0;"""
READ = "xor.b32 %r4, %r2, 128; ld.shared.b32 %r20, [%r4]; st.global.b32 [%rd5], %r20;"
GROUPS = {
    # The group before has copies, so that a wait for all but one group needs both commits.
    "commit of two": ({"first": "", "keep": 1, "read": READ}, 0, ""),
    "commit before a wait for all": ({"first": "", "keep": 0, "read": READ}, 0, "same wait"),
    "wait": ({"first": "", "keep": 1, "read": READ}, 2, ""),
    "wait for what is not read": ({"first": "", "keep": 1, "read": ""}, 2, "ends unused"),
    "wait for nothing": ({"first": "cp.async.wait_group 0;", "keep": 0, "read": READ}, 0, "nothing in flight"),
    "last wait": ({"first": "", "keep": 1, "read": READ}, 4, "at the end"),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_reasons_of_a_group_of_copies(name: str) -> None:
    given, place, reason = GROUPS[name]
    found = remove([bench(COPIES.format(**given))], place)
    assert (found.reason, bool(found.fault)) == (reason, reason in ("", "at the end"))


def test_what_no_launch_reaches_is_named() -> None:
    one = bench("setp.lt.u32 %p1, %r1, 64; @%p1 bra $L;\nbar.sync 0;\n$L:\nmov.b32 %r3, 0;")
    assert remove([one], 0).reason == "not executed"


def test_every_kind_of_synchronisation_is_removed() -> None:
    body = (
        "bar.sync 0; bar.warp.sync -1; cp.async.commit_group; cp.async.wait_group 0; fence.proxy.async.shared::cta;"
        "wgmma.fence.sync.aligned; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;"
        "tcgen05.wait::ld.sync.aligned; tcgen05.wait::st.sync.aligned;"
        f"{COMMIT} [%r10]; {TRY_WAIT} %p1, [%r10], 0;"
    )
    assert len(synchronisations(program_of(body, 32))) == body.count(";")
    kinds = "barrier.sync mbarrier.arrive.shared::cta.b64 fence.acq_rel.gpu membar.cta"
    for name in [*kinds.split(), "tcgen05.fence::after_thread_sync"]:
        assert SYNCHRONISATION.fullmatch(name)
    # They make an mbarrier and give it up, and order nothing.
    for name in ("mbarrier.init.shared::cta.b64", "mbarrier.inval.shared::cta.b64"):
        assert not SYNCHRONISATION.fullmatch(name)
