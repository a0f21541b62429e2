"""A folder of results with made-up numbers and real pictures, and a parser of the page that is written from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from hpr.experiment.record import checksum
from hpr.experiment.specification import RunSpec
from hpr.experiment.store import Store
from hpr.figures import Settings, discover
from hpr.figures.forecast import runs_of
from hpr.figures.panel import MEASURES
from hpr.figures.summary import write_figure, write_summary

VOID = {"meta", "link", "input", "img", "br", "col"}
SETTINGS = Settings()
# Figure 18 has no stand-in, and Figure 1 has one.
FIGURES = ("1", "18")


def record(spec: RunSpec) -> dict[str, Any]:
    """Return a record whose alignments rise with the rank; the sMNIST stand-in of seed 3 at rank 5 has diverged."""
    draw = np.random.default_rng(int(spec.key, 16))
    rank = np.log(spec.connectivity.rank) / np.log(300)  # type: ignore[attr-defined]
    diverged = spec.task == "sDigits" and spec.seed in (3, 5) and "rank 5" in str(spec)
    windows = range(100, spec.iterations + 1, 100)
    loss = np.exp(-np.linspace(0, 3, len(windows))) * draw.uniform(0.9, 1.1)
    measures = {name: float(0.2 + 0.5 * rank + draw.uniform(0, 0.1)) for name in MEASURES}
    measures["weight_change_norm"] = float(2 - rank + draw.uniform(0, 0.1))
    return {
        "schema": 1,
        "key": spec.key,
        "spec": spec.to_dict(),
        "status": "diverged" if diverged else "finished",
        "iterations": spec.iterations,
        "curves": {
            "iteration": [*windows],
            "loss": loss.tolist(),
            "accuracy": (1 - loss / 2).tolist(),
        },
        "measures": {} if diverged else measures,
        "flags": ["loss not finite at iteration 1500"] if diverged else [],
        "provenance": {
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "device": "cpu (x86_64)",
            "engine": "native",
            "threads": 1,
            "cores": 2,
            "git": "abcdef0123456789abcdef0123456789abcdef01",
        },
        "timings": {
            "started": "2026-11-28T21:00:28+00:00",
            "pack": 20,
            "training_s": 1.0,
            "measures_s": 0.125,
        },
    }


def sealed(record: dict[str, Any]) -> bytes:
    """Return the file of a record whose checksum is right."""
    plain = {name: value for name, value in record.items() if name != "checksum"}
    return json.dumps({**plain, "checksum": checksum(plain)}).encode()


def make_folder(out: Path) -> Path:
    """Write the records, figures and summary of `FIGURES` in the profile `quick`, and return the folder."""
    figures = [discover()[name] for name in FIGURES]
    records = {spec.key: record(spec) for spec in runs_of(figures, SETTINGS)}
    store = Store(out)
    store.prepare()
    for each in records.values():
        store.path(RunSpec.from_dict(each["spec"])).write_bytes(sealed(each))
    written = [write_figure(figure, SETTINGS, records, {}, out) for figure in figures]
    write_summary(SETTINGS, written, [], out)
    return out


def claims_of(out: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each claim's finding with its figure, in the order of the page."""
    contents = [json.loads((out / f"figure_{name}.json").read_text("utf-8")) for name in FIGURES]
    return [(content["figure"], finding) for content in contents for finding in content["claims"]]


@dataclass
class Node:
    """An element of a page, with its parts in order: elements and texts."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    parts: list[Node | str] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This element and all inside it, in the order of the page."""
        yield self
        for part in self.parts:
            if isinstance(part, Node):
                yield from part.walk()

    def all(self, tag: str) -> list[Node]:
        """All elements of a kind inside this one."""
        return [node for node in self.walk() if node.tag == tag and node is not self]

    @property
    def text(self) -> str:
        """The text inside, with single spaces."""
        return " ".join("".join(self._texts()).split())

    def _texts(self) -> Iterator[str]:
        for part in self.parts:
            if isinstance(part, Node):
                yield from part._texts()
            else:
                yield part


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("page")
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].parts.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def parsed(text: str) -> Node:
    """Parse a page whose elements must all be closed in order."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert [node.tag for node in parser.open] == ["page"]
    return parser.root
