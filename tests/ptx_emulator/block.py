"""One block of a launch: its registers and shared memory, and the order in which its threads go."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ptx_emulator.memory import WARP, Access, Array, Fault, Memory
from ptx_emulator.program import Instruction, Program

# What threads execute together, or not at all.
TOGETHER = re.compile(r"bar\.sync|ret|mma|wgmma|ldmatrix|stmatrix|shfl|cp\.async")


@dataclass
class Counts:
    """What a launch executed, by opcode and per warp, and what its memory accesses cost.

    `sectors` are pieces of 32 bytes of global memory that an instruction of a warp touches. `conflicts` are passes
    over the banks of shared memory beyond the fewest that the access needs.
    """

    instructions: Counter[str] = field(default_factory=Counter)
    sectors: Counter[str] = field(default_factory=Counter)
    conflicts: Counter[str] = field(default_factory=Counter)

    def global_access(self, kind: str, addresses: Array, size: int, warps: Array) -> None:
        """Count the sectors of addresses [n] of `size` bytes, aligned to `size`."""
        self.sectors[kind] += len(np.unique(warps.astype(np.int64) << 48 | addresses >> 5))

    def shared_access(self, kind: str, addresses: Array, size: int, threads: Array) -> None:
        """Count the passes: 32 threads of 4 bytes, 16 of 8 or 8 of 16 make one without conflicts."""
        together = max(1, WARP * 4 // max(4, size))
        words = addresses[:, None] // 4 + np.arange(max(1, size // 4))
        phase = np.broadcast_to((threads // together)[:, None], words.shape)
        touched = np.unique(phase.ravel().astype(np.int64) << 40 | words.ravel())
        banks = Counter(zip((touched >> 40).tolist(), (touched % 32).tolist(), strict=True))
        most: dict[int, int] = {}
        for (part, _), passes in banks.items():
            most[part] = max(most.get(part, 0), passes)
        self.conflicts[kind] += sum(most.values()) - len(most)


@dataclass
class Trace:
    """What a launch did: its accesses to memory, and when each copy and each wgmma was issued and waited for."""

    accesses: list[Access] = field(default_factory=list)
    landed: list[tuple[int, int]] = field(default_factory=list)


class Registers(dict[str, Array]):
    """A register is made when first named, and then holds no number of use."""

    def __init__(self, types: Mapping[str, np.dtype], threads: int) -> None:
        self.types, self.threads = types, threads

    def __missing__(self, name: str) -> Array:
        dtype = self.types[name.rstrip("0123456789")]
        value = np.full(self.threads, False if dtype.kind == "b" else 0xCDCD, dtype)
        self[name] = value
        return value


class Block:
    """The state of a block while it runs."""

    def __init__(
        self,
        program: Program,
        number: int,
        arguments: Mapping[str, Array],
        memory: Memory,
        shared: Memory,
        counts: Counts,
        *,
        truncate: bool,
        measure: bool,
    ) -> None:
        self.program, self.number, self.arguments = program, number, arguments
        self.memory, self.shared, self.counts = memory, shared, counts
        self.clock = memory.clock
        self.truncate, self.measure = truncate, measure
        self.thread = np.arange(program.threads)
        self.warp = self.thread // WARP
        self.registers = Registers(program.registers, program.threads)
        # Copies of `cp.async` and reads of `wgmma`: those of the open group, and the groups not waited for.
        self.copies: list[Any] = []
        self.copy_groups: list[list[Any]] = []
        self.reads: list[Any] = []
        self.read_groups: list[list[Any]] = []
        # When each copy and product was issued and waited for.
        self.landed: list[tuple[int, int]] = []
        # The times of the last fences for wgmma, of shared memory and of registers.
        self.fenced = self.registers_fenced = -1
        self.mbarriers: dict[int, Any] = {}
        # The times at which ordinary instructions last touched registers of products.
        self.touched: dict[str, int] = {}

    @cached_property
    def tensor(self) -> Any:
        """The tensor memory, of kernels that have one."""
        from ptx_emulator.tensor_memory import TensorMemory

        made = TensorMemory(self.clock)
        made.cells.log = self.shared.log
        return made

    def run(self) -> None:
        """Go to the end of the program. A Fault names the instruction."""
        instructions, at = self.program.instructions, 0
        with np.errstate(all="ignore"):
            while at < len(instructions):
                one = instructions[at]
                mask = self._mask(one)
                self._count(one, mask)
                at += 1
                if one.opcode == "ret" and mask is None:
                    break
                if one.opcode.startswith("bra"):
                    there = self.program.labels[one.operands[0]]
                    if mask is None or mask.all():
                        at = there
                    elif mask.any():
                        at = self._diverged(np.where(mask, there, at))
                elif one.opcode == "bar.sync":
                    self.clock.epoch += 1
                    self.tensor.meet()
                elif mask is None or mask.any():
                    self._step(one, mask)
                    if self._waits(one, mask):
                        raise Fault(
                            f"{one.text}: expected an arrival, or all threads wait for good"
                        )
        if self.copies or self.copy_groups or self.reads or self.read_groups:
            raise Fault("end of the program: expected all copies and products to be waited for")
        if self.tensor.products or self.tensor.transfers or self.tensor.columns:
            raise Fault(
                "end of the program: expected products to be waited for and tensor memory to be freed"
            )

    def _mask(self, one: Instruction) -> Array | None:
        if one.guard is None:
            return None
        value = self.registers[one.guard.register]
        mask = ~value if one.guard.negated else value.copy()
        return None if mask.all() and not one.opcode.startswith("bra") else mask

    def _count(self, one: Instruction, mask: Array | None) -> None:
        self.clock.time += 1
        warps = len(self.thread) // WARP
        if mask is not None:
            warps = int(mask.reshape(-1, WARP).any(1).sum())
        self.counts.instructions[one.opcode] += warps

    def _step(self, one: Instruction, mask: Array | None) -> None:
        if one.step is None:
            raise Fault(f"{one.text}: expected by all threads, got some")
        try:
            if one.reads or one.writes:
                self.check_registers(one.reads, one.writes)
                self.touched.update(dict.fromkeys(one.reads | one.writes, self.clock.time))
            one.step(self, mask)
        except Fault as fault:
            raise Fault(f"{one.text}: {fault}") from None

    def products(self) -> list[Any]:
        """The wgmma in flight."""
        return [one for group in [*self.read_groups, self.reads] for one in group]

    def check_registers(self, reads: frozenset[str], writes: frozenset[str]) -> None:
        """Raise a Fault if an instruction touches the sums of a wgmma in flight, or writes what that reads."""
        for product in self.products():
            if not product.results.keys().isdisjoint(reads | writes):
                raise Fault("expected the sums of a wgmma that was waited for")
            if not product.fragments.isdisjoint(writes):
                raise Fault("expected registers that no wgmma in flight reads")
        for one in self.tensor.transfers:
            if not one.registers.isdisjoint(writes):
                raise Fault("expected tcgen05.wait::ld before a write of a register that it loads")

    def _waits(self, one: Instruction, mask: Array | None) -> bool:
        """Whether a thread has found the phase of an mbarrier not over."""
        if not one.opcode.startswith("mbarrier.try_wait"):
            return False
        over = self.registers[one.operands[0].removeprefix("%")]
        return not over[... if mask is None else mask].all()

    def _diverged(self, at: Array) -> int:
        """Run the threads that are furthest behind, until all threads meet; the place where they do.

        Threads that wait for others let them go first.
        """
        while (at != at[0]).any():
            places = np.unique(at).tolist()
            for place in places:
                one, mask = self.program.instructions[place], at == place
                if not TOGETHER.match(one.opcode) and self._advance(one, mask, at):
                    break
            else:
                raise Fault(
                    f"{self.program.instructions[places[0]].text}: expected by all threads together, got some"
                )
        return int(at[0])

    def _advance(self, one: Instruction, mask: Array, at: Array) -> bool:
        """Let the threads of `mask` execute an instruction, and move them on unless it makes them wait."""
        chosen = mask
        if one.guard is not None:
            value = self.registers[one.guard.register]
            chosen = mask & (~value if one.guard.negated else value)
        self._count(one, chosen)
        place = at[mask][0] + 1
        if one.opcode.startswith("bra"):
            at[mask] = place
            at[chosen] = self.program.labels[one.operands[0]]
            return True
        if chosen.any():
            self._step(one, chosen)
            if self._waits(one, chosen):
                return False
        at[mask] = place
        return True
