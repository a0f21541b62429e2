"""JacobianRows of a module's Jacobian, parameter by parameter: as factors if all uses are known, else written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpr_kernels.tangent.patches import Convolution, patches
from hpr_kernels.tangent.uses import (
    Record,
    Recorder,
    Use,
    factored,
    record,
    substituted,
)


class Layer(NamedTuple):
    """The uses of one weight by an example.

    Attributes:
        places: the places of the uses in `Split.uses`.
        S: positions of all uses.
        N: units of a group.
        groups: groups of a convolution, else 1.
        F: inputs of a unit; of an embedding the size of the vocabulary. A bias counts as one more input, whose value is
            one at every position.
        bias: the name of the bias of all these uses and no other use, or None.
        tokens: whether it is an embedding.
        transposed: whether it is a transposed convolution.
    """

    places: list[int]
    S: int
    N: int
    groups: int
    F: int
    bias: str | None
    tokens: bool
    transposed: bool


class Derivatives(NamedTuple):
    """What differentiation gives for some examples and some outputs of each.

    Attributes:
        adjoints: of each use, the gradients [b, o, *shape of the result].
        inputs: of each use, [b, *shape of the input].
        direct: the gradients by the parameters that are not factored, [b, o, *shape].
    """

    adjoints: Sequence[Tensor]
    inputs: Sequence[Tensor]
    direct: dict[str, Tensor]


class JacobianRows(NamedTuple):
    """JacobianRows of the Jacobian by some examples and some outputs of each.

    Attributes:
        factors: of each weight, the adjoints [b, o, S, groups N] and the inputs [b, S, groups, F], or the tokens [b, S]
            of an embedding, -1 where they have no gradient.
        written: the gradients by all other parameters end to end, [b, o, P].
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    written: Tensor


class Shared(NamedTuple):
    """What is common to both sides of a kernel.

    Attributes:
        kept: the parameters whose gradients are known from their uses; all others are differentiated directly.
        joined: the bias that is kept with a weight as one more input of it, by the weight's name.
        factored: the weights that are kept as factors, and their joined biases.
    """

    kept: set[str]
    joined: dict[str, str]
    factored: set[str]


class Split:
    """A module, differentiated at inputs of one shape by some of its parameters.

    Args:
        module: a copy that is nobody else's.
        weights: the parameters to differentiate by.
        shared: how, the same on both sides of a kernel.
        found: the uses by one example of the shape.
        by_vmap: whether all examples and outputs are differentiated at once; else each on its own.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: dict[str, Tensor],
        shared: Shared,
        found: Record,
        *,
        by_vmap: bool = True,
    ) -> None:
        self.module, self.weights, self.shared, self.found = module, weights, shared, found
        self.by_vmap = by_vmap
        self.call = substituted(module)
        self.constants = {name: value for name, value in weights.items() if name in shared.kept}
        self.direct = {name: value for name, value in weights.items() if name not in shared.kept}
        self.outputs, self.dtype = found.outputs, next(iter(weights.values())).dtype
        named = [
            use._replace(
                weight=use.weight if use.weight in self.constants else None,
                bias=use.bias if use.bias in self.constants else None,
            )
            for use in found.uses
        ]
        self.uses = [use for use in named if use.weight is not None or use.bias is not None]
        self.layers: dict[str, Layer] = {}
        self.biases: dict[str, list[int]] = {}
        for name, value in self.constants.items():
            by_weight = [i for i, use in enumerate(self.uses) if use.weight == name]
            if by_weight:
                self.layers[name] = _layer(value, by_weight, self.uses, shared.joined.get(name))
            by_bias = [i for i, use in enumerate(self.uses) if use.bias == name]
            if by_bias and name not in shared.factored:
                self.biases[name] = by_bias
        self.columns: dict[str, slice] = {}
        for name, value in weights.items():
            if name not in shared.factored:
                start = self.width
                self.columns[name] = slice(start, start + value.numel())

    @property
    def width(self) -> int:
        """The number P of columns that are written out."""
        return max((columns.stop for columns in self.columns.values()), default=0)

    def part(self, names: Sequence[str]) -> Split:
        """The same module, differentiated by these parameters alone."""
        some = {name: self.weights[name] for name in names}
        return Split(self.module, some, self.shared, self.found, by_vmap=self.by_vmap)

    def bundles(self) -> list[tuple[str, ...]]:
        """The parameters, each alone or with its joined bias: those that `part` may take apart."""
        joined = self.shared.joined
        return [
            (name, joined[name]) if name in joined else (name,)
            for name in self.weights
            if name not in joined.values()
        ]

    def rows(self, x: Tensor, directions: Tensor, few: int) -> JacobianRows:
        """The gradients of outputs of the examples x [b, …] along directions [o, O], `few` examples at a time."""
        b, o = len(x), len(directions)
        like = torch.empty(0, dtype=self.dtype, device=x.device)
        factors = {}
        for name, layer in self.layers.items():
            g = like.new_empty(b, o, layer.S, layer.groups * layer.N)
            shape = (b, layer.S, layer.groups, layer.F)
            z = x.new_empty(shape[:2], dtype=torch.long) if layer.tokens else like.new_ones(shape)
            factors[name] = (g, z)
        rows = JacobianRows(factors, like.new_zeros(b, o, self.width))
        for start in range(0, b, few):
            some = slice(start, start + few)
            self._store(rows, some, self._differentiated(x[some], directions))
        return rows

    def _differentiated(self, x: Tensor, directions: Tensor) -> Derivatives:
        if self.by_vmap:
            return self._by_vmap(x, directions)
        each = [self._by_loop(one, directions) for one in x]
        adjoints, inputs = (
            [torch.stack(values) for values in zip(*found, strict=True)]
            for found in ([one.adjoints for one in each], [one.inputs for one in each])
        )
        direct = {name: torch.stack([one.direct[name] for one in each]) for name in self.direct}
        return Derivatives(adjoints, inputs, direct)

    def _by_vmap(self, x: Tensor, directions: Tensor) -> Derivatives:
        names = {id(value): name for name, value in self.constants.items()}
        taps = [torch.zeros(use.shape, dtype=use.dtype, device=x.device) for use in self.uses]

        def example(one: Tensor) -> tuple[tuple[list[Tensor], dict[str, Tensor]], list[Tensor]]:
            def run(taps: list[Tensor], direct: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
                with Recorder(names, taps) as recorder:
                    y = self.call({**self.constants, **direct}, one[None])
                recorder.check_complete()
                return y.flatten(), recorder.inputs

            differentiated: Any = torch.func.vjp(run, taps, self.direct, has_aux=True)
            _, pull, inputs = differentiated
            return torch.func.vmap(pull)(directions), inputs

        (adjoints, direct), inputs = torch.func.vmap(example)(x)
        return Derivatives(adjoints, inputs, direct)

    def _by_loop(self, one: Tensor, directions: Tensor) -> Derivatives:
        """Those of one example, without axis b, each direction on its own."""
        names = {id(value): name for name, value in self.constants.items()}
        taps = [
            torch.zeros(use.shape, dtype=use.dtype, device=one.device, requires_grad=True)
            for use in self.uses
        ]
        direct = {name: value.clone().requires_grad_() for name, value in self.direct.items()}
        with torch.enable_grad():
            with Recorder(names, taps) as recorder:
                y = self.call({**self.constants, **direct}, one[None]).flatten()
            recorder.check_complete()
            leaves = [*taps, *direct.values()]
            found = [
                torch.autograd.grad(
                    y, leaves, along, retain_graph=True, allow_unused=True, materialize_grads=True
                ) if y.requires_grad else [torch.zeros_like(leaf) for leaf in leaves]
                for along in directions
            ]  # fmt: skip
        rows = [torch.stack(values) for values in zip(*found, strict=True)]
        adjoints, others = rows[: len(taps)], rows[len(taps) :]
        inputs = [value.detach() for value in recorder.inputs]
        return Derivatives(adjoints, inputs, dict(zip(direct, others, strict=True)))

    def _store(self, rows: JacobianRows, some: slice, found: Derivatives) -> None:
        """Write the gradients of some examples to their place in `rows`."""
        for name, layer in self.layers.items():
            g, z = (value[some] for value in rows.factors[name])
            start = 0
            for place in layer.places:
                adjoints, inputs = self._positions(place, found), self._inputs(place, found)
                positions = slice(start, start + adjoints.shape[2])
                g[:, :, positions] = adjoints
                if layer.tokens:
                    z[:, positions] = inputs
                else:
                    z[:, positions, :, : inputs.shape[-1]] = inputs
                start = positions.stop
        for name, columns in self.columns.items():
            target = rows.written[some, :, columns]
            if name in self.direct:
                target.copy_(found.direct[name].flatten(2))
            for place in self.biases.get(name, []):
                target += self._positions(place, found).sum(2)

    def _positions(self, place: int, found: Derivatives) -> Tensor:
        """The adjoints of one use, [b, o, S, units]."""
        use, g = self.uses[place], found.adjoints[place]
        axes = len(use.settings.kernel) if isinstance(use.settings, Convolution) else 0
        return g.movedim(-(axes + 1), -1).reshape(*g.shape[:2], -1, use.units)

    def _inputs(self, place: int, found: Derivatives) -> Tensor:
        """The inputs of one use, [b, S, groups, F], or its tokens [b, S]."""
        settings, x = self.uses[place].settings, found.inputs[place]
        if isinstance(settings, Convolution):
            return patches(x, settings)
        tokens = x.reshape(len(x), -1)
        hidden = -1 if settings.padding_idx is None else settings.padding_idx
        return tokens.masked_fill(tokens == hidden, -1)

    def gradient(self, x: Tensor, along: Tensor) -> dict[str, Tensor]:
        """The gradients of one example x of its outputs along one direction [O], in the shapes of the parameters."""
        rows = self.rows(x[None], along[None], 1)
        found = {
            name: rows.written[0, 0, columns].view(self.weights[name].shape)
            for name, columns in self.columns.items()
        }
        for name, layer in self.layers.items():
            g, z = (value[0] for value in rows.factors[name])
            found[name] = torch.zeros_like(self.weights[name])
            if layer.tokens:
                known = z >= 0
                found[name].index_add_(0, z[known], g[0, known])
                continue
            parts = zip(g[0].split(layer.N, dim=1), z.unbind(1), strict=True)
            blocks = torch.stack([a.mT @ b for a, b in parts])  # [groups, N, F]
            if layer.bias is not None:
                found[layer.bias] = blocks[..., -1].flatten()
                blocks = blocks[..., :-1]
            if layer.transposed:
                # The weight has the channels first.
                channels = len(self.weights[name]) // layer.groups
                blocks = blocks.unflatten(2, (channels, -1)).transpose(1, 2)
            found[name] = blocks.reshape(self.weights[name].shape)
        return {name: found.get(name, torch.zeros_like(value)) for name, value in self.weights.items()}  # fmt: skip


def _layer(weight: Tensor, places: list[int], uses: Sequence[Use], bias: str | None) -> Layer:
    found = [uses[place] for place in places]
    S, units = sum(use.shape.numel() // use.units for use in found), found[0].units
    settings = found[0].settings
    if isinstance(settings, Convolution):
        groups, F = settings.groups, weight.numel() // units + (bias is not None)
        return Layer(places, S, units // groups, groups, F, bias, False, settings.transposed)
    return Layer(places, S, units, 1, len(weight), None, True, False)


def splits(
    module: nn.Module, weights: dict[str, Tensor], examples: Sequence[Tensor]
) -> list[Split]:
    """The module at each of `examples` [1, …]; the same parameters are factored, and joined, at all of them."""
    call = substituted(module)
    records = [record(call, weights, x) for x in examples]
    kept = factored(records)
    uses = [use for one in records for use in one.uses]
    joined = _joined(uses, kept)
    shared = Shared(
        kept, joined, {use.weight for use in uses if use.weight in kept} | set(joined.values())
    )
    return [Split(module, weights, shared, one) for one in records]


def _joined(uses: Sequence[Use], kept: set[str]) -> dict[str, str]:
    """The biases that occur in all uses of one weight and in no other use, by the weight's name."""
    joined = {}
    for weight in dict.fromkeys(use.weight for use in uses if use.weight in kept):
        biases = {use.bias for use in uses if use.weight == weight}
        (bias,) = biases if len(biases) == 1 else (None,)
        if bias in kept and {use.weight for use in uses if use.bias == bias} == {weight}:
            joined[weight] = bias
    return joined
