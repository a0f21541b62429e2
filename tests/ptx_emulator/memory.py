"""Words of global or shared memory, whose every access is checked for bounds, alignment and races."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

NOBODY, SEVERAL = -1, -2
# Memory that nobody wrote holds this NaN.
POISON = 0x7FC0DEAD


class Fault(AssertionError):
    """What a card would do differently from run to run, or refuse."""


@dataclass
class Clock:
    """Where a launch is: its block, the interval between two barriers, and the number of executed instructions."""

    block: int = 0
    epoch: int = 0
    time: int = 0


class Memory:
    """32-bit words from the address `base`; an address is readable after `open`.

    Each word remembers the last epoch in which a warp wrote or read the word, and which warp and block did so.
    """

    def __init__(self, name: str, base: int, words: int, clock: Clock) -> None:
        self.name, self.base, self.clock = name, base, clock
        self.words = np.full(words, POISON, np.uint32)
        self.bytes = self.words.view(np.uint8)
        self.readable = np.zeros(words, bool)
        self.written_epoch, self.written_warp, self.written_block, self.written_time = (
            np.full(words, NOBODY) for _ in range(4)
        )
        self.read_epoch, self.read_warp, self.read_block, self.read_time = (
            np.full(words, NOBODY) for _ in range(4)
        )

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

    def read(self, words: Array, warps: Array) -> Array:
        """The content of `words` [n, k], which threads of `warps` [n] read."""
        self.check_read(words, warps)
        flat = words.ravel()
        warp = np.broadcast_to(warps[:, None], words.shape).ravel()
        now = self.read_epoch[flat] == self.clock.epoch
        before = self.read_warp[flat]
        self.read_warp[flat] = np.where(now & (before != warp), SEVERAL, warp)
        # Several warps of one instruction may read one word.
        last = self.read_warp[flat]
        self.read_warp[flat[(last != warp) & (last != SEVERAL)]] = SEVERAL
        block = self.read_block[flat]
        alone = (block == NOBODY) | (block == self.clock.block)
        self.read_block[flat] = np.where(alone, self.clock.block, SEVERAL)
        self.read_epoch[flat] = self.clock.epoch
        self.read_time[flat] = self.clock.time
        return self.words[words]

    def check_read(self, words: Array, warps: Array) -> None:
        """Raise a Fault if another warp wrote since the last barrier, or another block in this launch."""
        recent = self.written_epoch[words] == self.clock.epoch
        if (recent & (self.written_warp[words] != warps[:, None])).any():
            raise Fault(f"{self.name}: a warp reads what another wrote since the last barrier")
        self._other_block(self.written_block[words], "reads what another wrote")

    def check_write(self, words: Array, warps: Array) -> None:
        """Raise a Fault if another warp wrote or read since the last barrier, or another block in this launch."""
        epoch, warp = self.clock.epoch, warps[:, None]
        if ((self.written_epoch[words] == epoch) & (self.written_warp[words] != warp)).any():
            raise Fault(f"{self.name}: a warp writes what another wrote since the last barrier")
        if ((self.read_epoch[words] == epoch) & (self.read_warp[words] != warp)).any():
            raise Fault(f"{self.name}: a warp writes what another read since the last barrier")
        self._other_block(self.written_block[words], "writes what another wrote")
        self._other_block(self.read_block[words], "writes what another read")

    def _other_block(self, blocks: Array, what: str) -> None:
        if ((blocks != NOBODY) & (blocks != self.clock.block)).any():
            raise Fault(f"{self.name}: a block {what} in the same launch")

    def write(self, words: Array, values: Array, warps: Array) -> None:
        """Store `values` [n, k]. Threads of one instruction may store to one word only the same value."""
        self.check_write(words, warps)
        self.words[words] = values
        if (self.words[words] != values).any():
            raise Fault(f"{self.name}: two threads of one instruction write different values")
        self.mark_written(words, warps)

    def mark_written(self, words: Array, warps: Array) -> None:
        """Note that `warps` wrote `words` now."""
        self.written_epoch[words] = self.clock.epoch
        self.written_warp[words] = warps[:, None]
        self.written_block[words] = self.clock.block
        self.written_time[words] = self.clock.time

    def read_part(self, address: Array, size: int, warps: Array) -> Array:
        """Bytes or halves, `size` 1 or 2, from `address` [n]; races are those of whole words."""
        self.read(self._word_of(address, size), warps)
        kind = np.uint8 if size == 1 else np.uint16
        return np.asarray(self.words.view(kind)[(address - self.base) // size])

    def write_part(self, address: Array, size: int, values: Array, warps: Array) -> None:
        """Store bytes or halves; races are those of whole words."""
        words = self._word_of(address, size)
        self.check_write(words, warps)
        parts = self.words.view(np.uint8 if size == 1 else np.uint16)
        place = (address - self.base) // size
        parts[place] = values.astype(parts.dtype)
        if (parts[place] != values.astype(parts.dtype)).any():
            raise Fault(f"{self.name}: two threads of one instruction write different values")
        self.mark_written(words, warps)

    def _word_of(self, address: Array, size: int) -> Array:
        if ((address - self.base) % size).any():
            raise Fault(f"{self.name}: expected addresses that are multiples of {size}")
        return self.locate(address - (address - self.base) % 4, 4)
