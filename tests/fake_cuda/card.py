"""Streams, events and graphs of the fake card, and the orders in which it works."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Work = Callable[[], None]


@dataclass
class Wait:
    """An entry of a queue: nothing after it runs before `stream` has done its first `count` entries."""

    stream: Stream
    count: int

    @property
    def over(self) -> bool:
        """Whether the other stream is so far."""
        return self.stream.done >= self.count


class Stream:
    """A queue of work, done up to entry `done`; it stands for `torch.cuda.Stream`."""

    def __init__(self, card: Card, index: int) -> None:
        self.card, self.index = card, index
        self.queue: list[Work | Wait] = []
        self.done = 0
        card.streams.append(self)

    def push(self, entry: Work | Wait) -> None:
        """Append an entry, and let the card's order do some of the work."""
        self.queue.append(entry)
        self.card.order(self.card)

    def step(self) -> bool:
        """Do the next entry; return whether there was one that does not have to wait."""
        if self.done == len(self.queue):
            return False
        entry = self.queue[self.done]
        if isinstance(entry, Wait):
            if not entry.over:
                return False
        else:
            entry()
        # Work may hold large tensors, so a done entry is dropped.
        self.queue[self.done] = Wait(self, 0)
        self.done += 1
        return True

    def run(self, count: int | None = None) -> None:
        """Do the first `count` entries, all by default, and whatever they wait for."""
        count = len(self.queue) if count is None else count
        while self.done < count:
            if not self.step():
                entry = self.queue[self.done]
                assert isinstance(entry, Wait)
                entry.stream.run(entry.count)

    def wait_stream(self, other: Stream) -> None:
        """Wait for all that `other` has in its queue now."""
        self.push(Wait(other, len(other.queue)))

    def wait_event(self, event: Event) -> None:
        """Wait for what the event recorded last; an event that recorded nothing is over."""
        if event.at is not None:
            self.push(event.at)

    def synchronize(self) -> None:
        """Let the host wait until the queue is empty."""
        self.card.host_waits()
        self.run()


class Event:
    """A place in a stream's queue; it stands for `torch.cuda.Event`."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.at: Wait | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Take the end of a stream's queue, that of the current stream by default."""
        stream = stream or self.card.current()
        self.at = Wait(stream, len(stream.queue))

    def synchronize(self) -> None:
        """Let the host wait for what was recorded."""
        self.card.host_waits()
        if self.at is not None:
            self.at.stream.run(self.at.count)


class Graph:
    """Captured work, replayed as one entry; it stands for `torch.cuda.CUDAGraph`."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.work: list[Work] = []
        self.replays = 0

    def replay(self) -> None:
        """Put the captured work into the queue of the current stream."""
        self.replays += 1
        work = list(self.work)
        self.card.push(lambda: [entry() for entry in work] and None)


Order = Callable[["Card"], None]


def late(card: Card) -> None:
    """Do nothing before the host waits for it."""


def eager(card: Card) -> None:
    """Do everything at once, as a stream of its own would never."""
    for stream in card.streams:
        stream.run()


def favouring(last: bool) -> Order:
    """One stream, the card's last or first, works as soon as it may, and the others as late as they may."""

    def order(card: Card) -> None:
        stream = card.streams[-1 if last else 0]
        while stream.step():
            pass

    return order


def randomly(seed: int) -> Order:
    """At each entry, up to four steps of streams that are drawn at random."""
    drawn = random.Random(seed)

    def order(card: Card) -> None:
        for _ in range(drawn.randrange(5)):
            drawn.choice(card.streams).step()

    return order


@dataclass
class Card:
    """The state of the fake: its streams, which of them is current, and the graph that is captured."""

    order: Order
    streams: list[Stream] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    pinned: list[Any] = field(default_factory=list)
    device: int = 0
    _entered: list[Stream] = field(default_factory=list)
    _default: dict[int, Stream] = field(default_factory=dict)
    _captured: Graph | None = None
    _capture_stream: Stream | None = None
    _shared: Stream | None = None

    def current(self, device: int | None = None) -> Stream:
        """The stream that was entered last on a device, or the device's default stream."""
        device = self.device if device is None else device
        for stream in reversed(self._entered):
            if stream.index == device:
                return stream
        if device not in self._default:
            self._default[device] = Stream(self, device)
        return self._default[device]

    def push(self, entry: Work, device: int | None = None) -> None:
        """Put work into the queue of the current stream, or into the graph that is captured there."""
        stream = self.current(device)
        if self._captured is not None and stream is self._capture_stream:
            self._captured.work.append(entry)
        else:
            stream.push(entry)

    @property
    def captures(self) -> bool:
        """Whether a graph is captured."""
        return self._captured is not None

    def host_waits(self) -> None:
        """Refuse, while a graph is captured, that the host waits for the card."""
        if self.captures:
            raise RuntimeError("the host waits for the card while a graph is captured")

    def finish(self) -> None:
        """Do all that is left in every queue."""
        for stream in self.streams:
            stream.run()

    @contextlib.contextmanager
    def entered(self, stream: Stream | None) -> Iterator[None]:
        """Make a stream current; None changes nothing. It stands for `torch.cuda.stream`."""
        if stream is None:
            yield
            return
        before, self.device = self.device, stream.index
        self._entered.append(stream)
        try:
            yield
        finally:
            self._entered.pop()
            self.device = before

    @contextlib.contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Make a device current. It stands for `torch.cuda.device`."""
        before, self.device = self.device, device
        try:
            yield
        finally:
            self.device = before

    @contextlib.contextmanager
    def capture(self, graph: Graph, stream: Stream | None = None) -> Iterator[None]:
        """Record the work of a block into `graph`. It stands for `torch.cuda.graph`.

        As in torch, captures without a stream share one, made on the device of the first.

        Raises:
            RuntimeError: the stream is of another device than the current one.
        """
        if stream is None:
            self._shared = stream = self._shared or Stream(self, self.device)
        if stream.index != self.device:
            raise RuntimeError(
                f"stream: expected one of cuda:{self.device} for the capture, got one of cuda:{stream.index}"
            )
        for one in self.streams:
            one.run()
        self.graphs.append(graph)
        with self.entered(stream):
            self._captured, self._capture_stream = graph, stream
            try:
                yield
            finally:
                self._captured = self._capture_stream = None
