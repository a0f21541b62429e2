"""The synchronisations that no test misses, with the reason: `python tests/kernels/uncaught_removals.py > TABLE`.

The table has them for each launch of `smallest_launches`; `ptx_emulator.removal` defines the reasons. It was made with
the Triton that it names. Names of launches as arguments choose some of them. The argument `--counts` prints how many
instructions of each kind the programs have, and how many of them the table lists for each reason.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# As a program it finds the folder of its own alone.
sys.path.insert(0, str(Path(__file__).parents[1]))
from ptx_emulator.launch import Prepared
from ptx_emulator.program import Program
from ptx_emulator.removal import Bench, remove, synchronisations
from smallest_launches import NAMES, launches

TABLE = Path(__file__).with_name("uncaught_removals.csv")
# With tanh a kernel has the barriers of the same kernel with ReLU.
REMOVED_FROM = [name for name in NAMES if "tanh" not in name]


class Uncaught(NamedTuple):
    """A row of the table. Cards with one program share it. `place` counts the program's synchronisations from 0."""

    launch: str
    cards: str
    place: int
    opcode: str
    reason: str


class Subject(NamedTuple):
    """A program of one or two cards, with its launches."""

    launch: str
    cards: str
    benches: list[Bench]

    @property
    def program(self) -> Program:
        """The program, whole."""
        return self.benches[0].program

    def uncaught(self, places: list[int] | None = None) -> Iterator[Uncaught]:
        """Remove the synchronisations at `places`, None for all, and list those that are not caught."""
        for place in range(len(synchronisations(self.program))) if places is None else places:
            found = remove(self.benches, place)
            if found.reason:
                yield Uncaught(self.launch, self.cards, place, found.opcode, found.reason)

    def firsts(self) -> list[int]:
        """The first place of each opcode."""
        found: dict[str, int] = {}
        for place, at in enumerate(synchronisations(self.program)):
            found.setdefault(self.program.instructions[at].opcode, place)
        return list(found.values())


def prepared(name: str, *, inputs: bool) -> dict[str, list[Prepared]]:
    """The launches of a name on 8.0 and 9.0, once where their programs are the same, and those with tensor memory."""
    patch = pytest.MonkeyPatch()
    made = {
        cards: launches(name, capability, patch, inputs=inputs)
        for cards, capability in (("8.0", 80), ("9.0", 90), ("10.0", 100))
    }
    texts = {c: [i.text for i in one[0].kernel.program.instructions] for c, one in made.items()}
    # Without tensor memory a program waits on 10.0 as it does on the other cards.
    if not any("tcgen05" in text for text in texts["10.0"]):
        del made["10.0"]
    if texts["8.0"] == texts["9.0"]:
        del made["9.0"]
        made = {"8.0 9.0": made.pop("8.0"), **made}
    return made


def subjects(name: str, card: str = "") -> list[Subject]:
    """The programs of a launch, or the one for a card."""
    made = prepared(name, inputs=True).items()
    return [Subject(name, cards, [*map(Bench, one)]) for cards, one in made if card in cards]


def table() -> list[Uncaught]:
    """The rows that the repository keeps."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(line for line in file if not line.startswith("#"))
        next(rows)
        return [Uncaught(name, cards, int(place), *rest) for name, cards, place, *rest in rows]


def counts() -> None:
    """Print how many instructions of each kind there are, and how many are in the table for each reason."""
    found: Counter[str] = Counter()
    programs = 0
    for name in REMOVED_FROM:
        for one in prepared(name, inputs=False).values():
            program = one[0].kernel.program
            found.update(program.instructions[at].opcode for at in synchronisations(program))
            programs += 1
    listed = Counter(one.opcode for one in table())
    reasons = Counter((one.opcode, one.reason) for one in table())
    print(f"{programs} programs, {found.total()} instructions, {listed.total()} not caught")
    for opcode, count in sorted(found.items()):
        print(f"{opcode}: {count}, not caught {listed[opcode]}")
        for (of, reason), n in sorted(reasons.items()):
            if of == opcode:
                print(f"    {n} {reason}")


def main() -> None:
    """Print the table, its rows for the launches that the arguments name, or the counts."""
    import triton

    if sys.argv[1:] == ["--counts"]:
        return counts()
    print(f"# Triton {triton.__version__}")
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(Uncaught._fields)
    for name in sys.argv[1:] or REMOVED_FROM:
        for one in subjects(name):
            out.writerows(one.uncaught())
            sys.stdout.flush()


if __name__ == "__main__":
    main()
