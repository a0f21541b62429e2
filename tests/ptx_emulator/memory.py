"""Words of global or shared memory, whose every access is checked for bounds, alignment and races."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WARP, MOST_WARPS = 32, 32
NOBODY, SEVERAL = -1, -2
# Memory that nobody wrote holds this NaN.
POISON = 0x7FC0DEAD


class Fault(AssertionError):
    """What a card would do differently from run to run, or refuse."""


@dataclass
class Clock:
    """Where a launch is: its block, the interval between two barriers, and the number of executed instructions.

    `warp_epochs` has the interval of each warp between two `bar.warp.sync`.
    """

    block: int = 0
    epoch: int = 0
    time: int = 0
    warp_epochs: Array = field(default_factory=lambda: np.zeros(MOST_WARPS, np.int64))


class Marks:
    """Who touched each word last, and when: block, interval between barriers, warp, thread, and instruction.

    A word that several warps touched since the last barrier has the warp `SEVERAL`, and likewise its thread.
    """

    def __init__(self, words: int, clock: Clock) -> None:
        self.clock = clock
        self.block, self.epoch, self.warp, self.thread, self.warp_epoch, self.time = (
            np.full(words, NOBODY) for _ in range(6)
        )

    def set(self, words: Array, threads: Array) -> None:
        """Note that `threads` [n] touch `words` [n, k], of which each thread has its own or shares equal content."""
        self.block[words] = self.clock.block
        self.epoch[words] = self.clock.epoch
        self.time[words] = self.clock.time
        self.thread[words] = threads[:, None]
        self.warp[words] = threads[:, None] // WARP
        self.warp_epoch[words] = self.clock.warp_epochs[threads // WARP][:, None]

    def set_all(self, words: Array) -> None:
        """Note that all warps touch `words` [n]."""
        self.epoch[words] = self.clock.epoch
        self.time[words] = self.clock.time
        self.warp[words] = self.thread[words] = SEVERAL

    def add(self, words: Array, threads: Array) -> None:
        """As `set`, but those who touched a word before, and are not ordered before now, count still."""
        flat = words.ravel()
        thread = np.repeat(threads, words.shape[1])
        warp = thread // WARP
        now = self.epoch[flat] == self.clock.epoch
        warp_before, thread_before, block_before = (
            self.warp[flat],
            self.thread[flat],
            self.block[flat],
        )
        same_warp = now & (self.warp_epoch[flat] == self.clock.warp_epochs[warp])
        self.set(words, threads)
        # Several threads of one instruction may touch one word.
        for mark, own, before, kept in (
            (self.warp, warp, warp_before, now),
            (self.thread, thread, thread_before, same_warp),
        ):
            others = (mark[flat] != own) | kept & (before != own)
            if others.any():
                mark[flat[others]] = SEVERAL
        elsewhere = (block_before != NOBODY) & (block_before != self.clock.block)
        if elsewhere.any():
            self.block[flat[elsewhere]] = SEVERAL

    def unordered(self, words: Array, threads: Array) -> str:
        """Who else touched one of `words` [n, k] since the last barrier: a "warp", a "thread" of a warp, or nobody."""
        now = self.epoch[words] == self.clock.epoch
        if not now.any():
            return ""
        warp = threads[:, None] // WARP
        other = self.warp[words] != warp
        if (now & other).any():
            return "warp"
        recent = self.warp_epoch[words] == self.clock.warp_epochs[warp]
        return "thread" if (now & recent & (self.thread[words] != threads[:, None])).any() else ""

    def other_block(self, words: Array) -> bool:
        """Whether another block of this launch touched one of `words`."""
        block = self.block[words]
        return bool(((block != NOBODY) & (block != self.clock.block)).any())


class Access(NamedTuple):
    """An access of `words` [n, k] by `threads` [n] at `time`, in an interval between barriers, and in one of warps."""

    memory: str
    writes: bool
    epoch: int
    warp_epoch: int
    time: int
    words: Array
    threads: Array


class Memory:
    """32-bit words from the address `base`; an address is readable after `open`.

    `written` and `reads` are the marks of the last writes and reads. A list as `log` gets every access.
    """

    def __init__(self, name: str, base: int, words: int, clock: Clock) -> None:
        self.name, self.base, self.clock = name, base, clock
        self.words = np.full(words, POISON, np.uint32)
        self.bytes = self.words.view(np.uint8)
        self.readable = np.zeros(words, bool)
        self.written, self.reads = Marks(words, clock), Marks(words, clock)
        self.log: list[Access] | None = None

    def open(self, first: int, content: Array) -> None:
        """Make the bytes `content` readable and writable from word `first` on."""
        self.bytes[4 * first : 4 * first + len(content)] = content
        self.readable[first : first - (-len(content) // 4)] = True

    def locate(self, address: Array, size: int) -> Array:
        """The words [n, k] that accesses of `size` bytes at `address` [n] touch, of readable and aligned addresses."""
        offset = address - self.base
        if (offset % size).any():
            at = int(address[offset % size != 0][0])
            raise Fault(f"{self.name} address {at:#x}: expected a multiple of {size}")
        words = (offset >> 2)[:, None] + np.arange(max(1, size // 4))
        inside = (words >= 0) & (words < len(self.words))
        if not inside.all() or not self.readable[words].all():
            bad = ~inside | ~self.readable[np.where(inside, words, 0)]
            at = int(address[bad.any(1)][0])
            raise Fault(f"{self.name} address {at:#x}: expected one of an allocation")
        return words

    def read(self, words: Array, threads: Array) -> Array:
        """The content of `words` [n, k], which `threads` [n] read."""
        if of := self.written.unordered(words, threads):
            raise Fault(f"{self.name}: a {of} reads what another wrote since the last barrier")
        if self.written.other_block(words):
            raise Fault(f"{self.name}: a block reads what another wrote in the same launch")
        self.reads.add(words, threads)
        self.note(False, words, threads)
        return self.words[words]

    def check_write(self, words: Array, threads: Array) -> None:
        """Raise a Fault if another thread wrote or read since the last barrier, or another block in this launch."""
        for marks, did in ((self.written, "wrote"), (self.reads, "read")):
            if of := marks.unordered(words, threads):
                raise Fault(f"{self.name}: a {of} writes what another {did} since the last barrier")
            if marks.other_block(words):
                raise Fault(f"{self.name}: a block writes what another {did} in the same launch")
        self.note(True, words, threads)

    def read_by_all(self, words: Array) -> None:
        """Note that all warps read `words` [n], as a wgmma does."""
        self.reads.set_all(words)
        self.note(False, words[:, None], np.full(len(words), SEVERAL))

    def note(self, writes: bool, words: Array, threads: Array) -> None:
        """Add an access of `words` [n, k] by `threads` [n] to the log, where there is one."""
        if self.log is not None:
            now = self.clock.epoch, int(self.clock.warp_epochs[0]), self.clock.time
            self.log.append(Access(self.name, writes, *now, words, threads))

    def write(self, words: Array, values: Array, threads: Array) -> None:
        """Store `values` [n, k]. Threads of one instruction may store to one word only the same value."""
        self.check_write(words, threads)
        self.words[words] = values
        if (self.words[words] != values).any():
            raise Fault(f"{self.name}: two threads of one instruction write different values")
        self.written.set(words, threads)

    def read_part(self, address: Array, size: int, threads: Array) -> Array:
        """Bytes or halves, `size` 1 or 2, from `address` [n]; races are those of whole words."""
        self.read(self._word_of(address, size), threads)
        kind = np.uint8 if size == 1 else np.uint16
        return np.asarray(self.words.view(kind)[(address - self.base) // size])

    def write_part(self, address: Array, size: int, values: Array, threads: Array) -> None:
        """Store bytes or halves; races are those of whole words."""
        words = self._word_of(address, size)
        self.check_write(words, threads)
        parts = self.words.view(np.uint8 if size == 1 else np.uint16)
        place = (address - self.base) // size
        parts[place] = values.astype(parts.dtype)
        if (parts[place] != values.astype(parts.dtype)).any():
            raise Fault(f"{self.name}: two threads of one instruction write different values")
        self.written.set(words, threads)

    def _word_of(self, address: Array, size: int) -> Array:
        if ((address - self.base) % size).any():
            raise Fault(f"{self.name}: expected addresses that are multiples of {size}")
        return self.locate(address - (address - self.base) % 4, 4)
