"""Random small modules for the tests of `ntk`: stacks of layers, some of which share weights."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from ntk_drawn_layers import EPS, IMAGES, SEQUENCES, VECTORS, Apply, Made
from torch import Tensor, nn
from torch.nn import functional as F

from hpr_kernels.checks import ORDERS, REDUCTIONS

F64 = torch.float64
TOKENS = 5
# The largest sizes of an example.
STARTS = {"vector": (4,), "sequence": (3, 4), "image": (3, 4, 4), "tokens": (3,)}
# Outputs per example, at most.
OUTPUTS = 8


class Step(NamedTuple):
    """A part of a stack, by its number, and what the stack does with it; None for a step without parameters."""

    text: str
    part: int | None
    apply: Apply
    takes: tuple[int, ...]


class Stack(nn.Module):
    """A module of the steps that were drawn, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.steps: list[Step] = []

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step.apply(self if step.part is None else self.parts[step.part], x)
        return x

    def add(self, made: Made, takes: tuple[int, ...]) -> None:
        place = None
        if made.part is not None:
            place = len(self.parts)
            self.parts.append(made.part.double().eval())
        self.steps.append(Step(made.text, place, made.apply, takes))


class Drawn(NamedTuple):
    """A module, the arguments of `ntk`, and the names that its `parameters` stand for."""

    module: Stack
    ties: list[str]
    x1: Tensor
    x2: Tensor | None
    parameters: list[str] | None
    names: list[str]
    reduce: Any
    order: Any
    # The memory budget is the least one by this.
    plenty: int

    def __repr__(self) -> str:
        steps = "".join(
            f"\n  {list(step.takes)} {step.text} part {step.part}" for step in self.module.steps
        )
        trained = [name for name, p in self.module.named_parameters() if p.requires_grad]
        return (
            f"Drawn({self.module.parts}{steps}\n  ties {self.ties}, require_grad {trained}\n"
            f"  x1 {list(self.x1.shape)}, x2 {None if self.x2 is None else list(self.x2.shape)}, "
            f"parameters={self.parameters}, {self.reduce}, {self.order}, {self.plenty} x least)"
        )


Draw = Callable[[Any], Any]


@st.composite
def drawn(draw: Draw, start: str) -> Drawn:
    """Random stack over inputs of a kind of `STARTS`, inputs and arguments."""
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 999)))
        return _drawn(draw, start)


def _drawn(draw: Draw, start: str) -> Drawn:
    stack = Stack().eval()
    # Sizes of one hide errors.
    shape = tuple(draw(st.sampled_from([*range(2, size + 1), 1])) for size in STARTS[start])
    B1, B2 = draw(st.sampled_from([2, 3, 1])), draw(st.sampled_from([0, 2, 1, 0]))
    tokens = start == "tokens"
    x = torch.randint(TOKENS, (B1 + B2, *shape)) if tokens else torch.randn(B1 + B2, *shape).double()  # fmt: skip
    if tokens:
        stack.add(_embedding(draw), shape)
    for depth in range(draw(st.integers(1, 4))):
        _add_step(draw, stack, x, first=depth == 0 and not tokens)
    _add_end(draw, stack, x)
    ties = _tie(draw, stack) if draw(st.booleans()) else []
    stack.eval()
    for parameter in stack.parameters():
        # Those that torch starts at zero or one would hide errors.
        nn.init.normal_(parameter, 0.2, 0.6)
    names = [name for name, _ in stack.named_parameters()]
    trained = draw(st.lists(st.sampled_from(names), min_size=1, unique=True) | st.just(names))
    for name, parameter in stack.named_parameters():
        parameter.requires_grad_(name in trained)
    parameters, chosen = _parameters(draw, names, trained)
    return Drawn(
        stack, ties, x[:B1], x[B1:] if B2 else None, parameters, chosen,
        draw(st.sampled_from(REDUCTIONS)), draw(st.sampled_from(ORDERS)), draw(st.sampled_from([1, 1, 2, 5, 1 << 16])),
    )  # fmt: skip


def _embedding(draw: Draw) -> Made:
    width, padding = draw(st.integers(1, 4)), draw(st.sampled_from([None, 1, -2]))
    text = f"embedding, padding {padding}"
    return Made(text, nn.Embedding(TOKENS, width, padding_idx=padding), lambda e, x: e(x))


def _shape(stack: Stack, x: Tensor) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(stack(x[:1]).shape[1:])


def _add_step(draw: Draw, stack: Stack, x: Tensor, *, first: bool) -> None:
    """Add a new layer, one that the stack has, or a use of a weight that the stack has."""
    shape = _shape(stack, x)
    again = [
        step for step in stack.steps
        if step.part is not None and step.takes == shape and not step.text.startswith("embedding")
    ]  # fmt: skip
    others = _direct_uses(stack, shape)
    choices = ["new"] * 3 + ["again"] * bool(again) * 2 + ["direct"] * bool(others) * 2
    choice = draw(st.sampled_from(choices))
    if choice == "again":
        stack.steps.append(draw(st.sampled_from(again)))
    elif choice == "direct":
        text, apply = draw(st.sampled_from(others))
        stack.steps.append(Step(text, None, apply, shape))
    else:
        layers = {1: VECTORS, 2: SEQUENCES, 3: IMAGES}[len(shape)]
        # The first layer has parameters, because a module without any has no kernel.
        made = draw(st.sampled_from(layers[:-1] if first else layers))(draw, shape)
        if draw(st.booleans()):
            made = _residual(made, shape, x)
        stack.add(made, shape)


def _residual(made: Made, shape: tuple[int, ...], x: Tensor) -> Made:
    """The layer with its input added, where it keeps the shape."""
    apply = made.apply

    def both(part: Any, x: Tensor) -> Tensor:
        y = apply(part, x)
        return x + y if x.shape == y.shape else y

    return made._replace(text=f"residual {made.text}", apply=both)


def _held(stack: nn.Module, name: str) -> Tensor:
    return reduce(getattr, name.split("."), stack)  # type: ignore[arg-type]


def _direct_uses(stack: Stack, shape: tuple[int, ...]) -> list[tuple[str, Apply]]:
    """Uses of a weight that the stack has by functions, which fit inputs of this shape."""
    width = shape[-1]
    found: list[tuple[str, Apply]] = []
    for name, parameter in stack.named_parameters():
        size = parameter.shape
        get = lambda m, name=name: _held(m, name)  # noqa: E731
        if len(size) == 2 and size[1] == width:
            half = max(1, size[0] // 2)
            found += [
                (f"F.linear by {name}", lambda m, x, get=get: F.linear(x, get(m))),
                (f"F.linear by {name}[:{half}]", lambda m, x, get=get, half=half: F.linear(x, get(m)[:half])),
                (f"F.linear by {name}[-{half}:]", lambda m, x, get=get, half=half: F.linear(x, get(m)[-half:])),
            ]  # fmt: skip
        if len(size) == 2 and size[0] == width:
            found += [
                (f"F.linear by {name}.mT", lambda m, x, get=get: F.linear(x, get(m).mT)),
                (f"product with {name}", lambda m, x, get=get: x @ get(m)),
            ]
        if size == (width,):
            found += [
                (f"scale by {name}", lambda m, x, get=get: x * get(m)),
                (f"norm by {name}", lambda m, x, get=get: F.rms_norm(x, x.shape[-1:], get(m), EPS)),
                (f"plus {name}", lambda m, x, get=get: x + get(m)),
            ]
        if len(size) == 3 and len(shape) == 2 and size[1] == shape[0] and size[2] <= width:
            found.append((f"F.conv1d by {name}", lambda m, x, get=get: F.conv1d(x, get(m))))
    return found


def _add_end(draw: Draw, stack: Stack, x: Tensor) -> None:
    """Keep the outputs few."""
    shape = _shape(stack, x)
    count = torch.Size(shape).numel()
    way = draw(st.sampled_from(["all"] * (count <= OUTPUTS) + ["head", "some", "sum"]))
    if way == "head":
        head = nn.Linear(count, draw(st.integers(1, 3)), bias=draw(st.booleans()))
        stack.add(Made("head", head, lambda h, x: h(x.flatten(1))), shape)
    elif way == "some":
        some = draw(st.integers(1, min(count, OUTPUTS)))
        stack.steps.append(Step(f"first {some}", None, lambda m, x: x.flatten(1)[:, :some], shape))
    elif way == "sum":
        stack.steps.append(Step("sum", None, lambda m, x: x.flatten(1).sin().sum(1), shape))


def _tie(draw: Draw, stack: Stack) -> list[str]:
    """Let one module hold a parameter of another, or of its own, of the same shape."""
    held = dict(stack.named_parameters())
    pairs = [
        (one, other)
        for one in held
        for other in held
        if one < other and held[one].shape == held[other].shape
    ]
    if not pairs:
        return []
    one, other = draw(st.sampled_from(pairs))
    owner, _, name = other.rpartition(".")
    setattr(stack.get_submodule(owner), name, held[one])
    return [one, other]


def _parameters(
    draw: Draw, names: list[str], trained: list[str]
) -> tuple[list[str] | None, list[str]]:
    """The argument `parameters`, and the parameters that it stands for."""
    way = draw(st.sampled_from(["none", "names", "pattern"]))
    if way == "none":
        return None, [name for name in names if name in trained]
    if way == "names":
        some = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        return some, some
    patterns = ["*", "*bias*", "*weight*", "*.weight", "parts.0.*", "parts.[1-9].*", "*_[hi]h*"]
    matching = {
        pattern: [name for name in names if fnmatchcase(name, pattern)] for pattern in patterns
    }
    pattern = draw(st.sampled_from([key for key, some in matching.items() if some]))
    return [pattern], matching[pattern]
