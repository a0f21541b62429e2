"""Tensors of the fake card: their numbers lie on the CPU, and operations on them wait in a stream's queue."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from fake_cuda.card import Card, Event, Graph, Order, Stream, Wait

aten = torch.ops.aten
# These say something about numbers at once, so the host waits for them.
ANSWERS = (aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default)


class Memory:
    """The memory of a tensor and of all its views; when the last of them goes, it is freed."""

    def __init__(self, card: Card, numbers: Tensor, index: int) -> None:
        self.card, self.index = card, index
        # The streams that `record_stream` named.
        self.others: list[Stream] = []
        # What a graph allocates stays its own.
        if not card.captures:
            weakref.finalize(self, freed, numbers, card.current(index), self.others)


def freed(numbers: Tensor, stream: Stream, others: list[Stream]) -> None:
    """Overwrite freed memory in the order of the stream that it was allocated on."""
    for other in others:
        stream.queue.append(Wait(other, len(other.queue)))
    stream.queue.append(lambda: poison(numbers))


def poison(numbers: Tensor) -> Tensor:
    """Fill with what no test expects, and return the tensor."""
    if numbers.dtype.is_floating_point:
        return numbers.fill_(torch.nan)
    return numbers.fill_(numbers.dtype == torch.bool or torch.iinfo(numbers.dtype).min)


class Late(Tensor):
    """A tensor on "cuda". `numbers` are those that the work done so far has left."""

    numbers: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, numbers: Tensor, memory: Memory) -> Late:
        """Make a tensor that shares `numbers`."""
        made = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            # C++ guards a device before it asks Python, and a build for the CPU has no guard of CUDA's.
            device="meta",
        )
        made.numbers, made.memory = numbers, memory
        return made

    @property
    def device(self) -> torch.device:
        """As that of a tensor on a card."""
        return torch.device("cuda", self.memory.index)

    @property
    def is_cuda(self) -> bool:
        """As that of a tensor on a card."""
        return True

    def record_stream(self, stream: Stream) -> None:
        """Let a later owner of this memory wait for what the stream has in its queue when it is freed."""
        self.memory.others.append(stream)

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Put an operation into the queue of the current stream."""
        kwargs = kwargs or {}
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Late)]
        card, index = given[0].memory.card, given[0].memory.index
        if func in ANSWERS:
            return func(*waited(card, index, args), **kwargs)
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            if torch.device(kwargs["device"]).type == "cpu":
                return func(*waited(card, index, args), **kwargs)
            kwargs = {name: value for name, value in kwargs.items() if name != "device"}
        if func is aten.copy_.default and not isinstance(args[0], Late):
            return func(*waited(card, index, args), **kwargs)
        kwargs.pop("pin_memory", None)
        if isinstance(kwargs.get("device"), torch.device):
            kwargs["device"] = torch.device("cpu")
        # A copy from pinned memory that does not block reads it when it runs, and all others read at once.
        late = func is aten.copy_.default and (args[2:] == (True,) or kwargs.get("non_blocking"))
        pinned = card.pinned if late else []
        args_, kwargs_ = tree_map(lambda value: held(value, pinned), (args, kwargs))
        written = written_by(func, args, kwargs)
        if written:
            card.push(lambda: quietly(func, args_, kwargs_), index)
            return written[0] if len(written) == 1 else tuple(written)
        if func.is_view:
            return tree_map(lambda view: Late(view, given[0].memory), func(*args_, **kwargs_))
        return computed(card, index, func, args_, kwargs_)


def quietly(func: Any, args: Any, kwargs: Any) -> Any:
    """Call an operation of the CPU outside every mode."""
    with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
        return func(*args, **kwargs)


def held(value: Any, pinned: list[Tensor]) -> Any:
    """The numbers of a tensor; of one on the host, whose owner may overwrite it, a copy, unless it is `pinned`."""
    if isinstance(value, Late):
        return value.numbers
    if not isinstance(value, Tensor):
        return value
    assert value.device.type == "cpu", f"numbers that C++ put on {value.device} are lost"
    places = {one.untyped_storage().data_ptr() for one in pinned}
    return value if value.untyped_storage().data_ptr() in places else value.clone()


def waited(card: Card, index: int, args: Any) -> Any:
    """The arguments by their numbers, after the host has waited for the current stream."""
    card.current(index).synchronize()
    return tree_map(lambda value: value.numbers.clone() if isinstance(value, Late) else value, args)


def written_by(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation writes to and returns."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[place] if place < len(args) else kwargs[argument.name])
    return found


def computed(card: Card, index: int, func: Any, args: Any, kwargs: Any) -> Any:
    """New tensors for an operation's results, whose shapes are known at once and their numbers later."""

    def shaped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return torch.device("meta") if isinstance(value, torch.device) else value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    made = quietly(func, *tree_map(shaped, (args, kwargs)))
    results = tree_map(
        lambda like: poison(torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)), made
    )

    def work() -> None:
        values = quietly(func, args, kwargs)
        for result, value in zip(tree_flatten(results)[0], tree_flatten(values)[0], strict=True):
            # The memory of `empty` holds nothing.
            poison(result) if "empty" in func.__name__ else result.copy_(value)

    out = tree_map(lambda numbers: Late(numbers, Memory(card, numbers, index)), results)
    card.push(work, index)
    return out


class _Factories(TorchFunctionMode):
    """Functions that are asked for a tensor on "cuda", or for pinned memory."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        # C++ would make tensors of an index or a number where it believes the tensor to be, on "meta".
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            tensors = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], tensors, *args[2:])
        if func is torch.nn.functional.one_hot and isinstance(args[0], Late):
            return (args[0][..., None] == torch.arange(args[1])).long()
        if func is Tensor.__setitem__ and not isinstance(args[2], Tensor):
            args = (*args[:2], torch.tensor(args[2]))
        if kwargs.pop("pin_memory", False):
            made = func(*args, **kwargs)
            self.card.pinned.append(made)
            return made
        wanted = [value for value in (*args, kwargs.get("device")) if _is_cuda(value)]
        if not wanted or func is torch.device:
            return func(*args, **kwargs)
        given = torch.device(wanted[0]).index
        index = self.card.device if given is None else given
        if args and isinstance(args[0], Late):
            if args[0].memory.index != index:
                raise NotImplementedError("copies between cards")
            return args[0] if func is Tensor.to else func(*args, **{**kwargs, "device": None})
        args = tuple("cpu" if _is_cuda(value) else value for value in args)
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        numbers = func(*args, **kwargs)
        if not isinstance(numbers, Tensor):
            return numbers
        # A tensor that was made from the host's numbers does not share them.
        numbers = poison(numbers) if func is torch.empty else numbers.clone()
        return Late(numbers, Memory(self.card, numbers, index))


def _is_cuda(value: Any) -> bool:
    text = str(value) if isinstance(value, str | torch.device) else ""
    return text.split(":")[0] == "cuda"


@contextlib.contextmanager
def pretend(order: Order) -> Iterator[Card]:
    """Let "cuda" be the fake card, which works in `order`; at the end it does all that is left."""
    card = Card(order)

    def index_of(device: Any) -> int:
        index = None if device is None else torch.device(device).index
        return card.device if index is None else index

    def device_of(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
        return card.on(tensor.memory.index if isinstance(tensor, Late) else card.device)

    stands_in = {
        "Stream": lambda device=None: Stream(card, index_of(device)),
        "Event": lambda **_: Event(card),
        "CUDAGraph": lambda: Graph(card),
        "stream": card.entered,
        "current_stream": lambda device=None: card.current(index_of(device)),
        "graph": card.capture,
        "device_of": device_of,
        "get_device_name": lambda device=None: "a fake card",
    }  # fmt: skip
    with mock.patch.multiple(torch.cuda, **stands_in), _Factories(card):
        yield card
        card.finish()
