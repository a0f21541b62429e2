"""Rows of a module's Jacobian, parameter by parameter: as factors if all uses are known, else written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpr_kernels.tangent.layers import Layer, Ways, channels_last, layers_of, ways_of
from hpr_kernels.tangent.patches import Convolution, Lookup, patches
from hpr_kernels.tangent.uses import Record, Recorder, record, substituted


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


class Split:
    """A module, differentiated at inputs of one shape by some of its parameters.

    Args:
        module: a copy that is nobody else's.
        weights: the parameters to differentiate by.
        ways: how the gradients by each parameter are computed.
        found: the uses by one example of the shape.
        by_vmap: whether all examples and outputs are differentiated at once; else each on its own.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: dict[str, Tensor],
        ways: Ways,
        found: Record,
        *,
        by_vmap: bool = True,
    ) -> None:
        self.module, self.weights, self.ways, self.found = module, weights, ways, found
        self.by_vmap = by_vmap
        self.call = substituted(module)
        self.constants = {name: value for name, value in weights.items() if name in ways.kinds}
        self.direct = {name: value for name, value in weights.items() if name not in ways.kinds}
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
        # The places of biases and of the scales of norms, whose gradients are written out.
        self.summed: dict[str, list[int]] = {}
        for name, value in self.constants.items():
            if name not in ways.factored:
                named_here = [
                    i for i, use in enumerate(self.uses) if name in (use.weight, use.bias)
                ]
                self.summed[name] = named_here
            else:
                self.layers |= layers_of(name, value, self.uses, ways)
        self.columns: dict[str, slice] = {}
        for name, value in weights.items():
            if name not in ways.factored:
                start = self.width
                self.columns[name] = slice(start, start + value.numel())

    @property
    def width(self) -> int:
        """The number P of columns that are written out."""
        return max((columns.stop for columns in self.columns.values()), default=0)

    def part(self, names: Sequence[str]) -> Split:
        """The same module, differentiated by these parameters alone."""
        some = {name: self.weights[name] for name in names}
        return Split(self.module, some, self.ways, self.found, by_vmap=self.by_vmap)

    def bundles(self) -> list[tuple[str, ...]]:
        """The parameters, each alone or with its joined bias: those that `part` may take apart."""
        joined = self.ways.joined
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
            factors[name] = _room(layer, b, o, like)
        rows = JacobianRows(factors, like.new_zeros(b, o, self.width))
        for start in range(0, b, few):
            some = slice(start, start + few)
            self._store(rows, some, self._differentiated(x[some], directions))
        return rows

    def _differentiated(self, x: Tensor, directions: Tensor) -> Derivatives:
        if self.by_vmap:
            try:
                return self._by_vmap(x, directions)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # Some operations differentiate under vmap at one example, and fail at several.
                self.by_vmap = False
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
                use = self.uses[place]
                adjoints = channels_last(found.adjoints[place], use)
                positions = slice(start, start + use.shape.numel() // use.units)
                if layer.rows is not None:
                    first, end = (row - use.first_row for row in layer.rows)
                    adjoints = adjoints[..., first:end]
                # Each is written to its place at once, because every pass over these numbers takes time.
                g[:, :, positions].view(adjoints.shape).copy_(adjoints)
                self._store_inputs(z[:, positions], place, found)
                start = positions.stop
        for name, columns in self.columns.items():
            target = rows.written[some, :, columns]
            if name in self.direct:
                target.copy_(found.direct[name].flatten(2))
            for place in self.summed.get(name, []):
                self._add_sum(target, name, place, found)

    def _add_sum(self, target: Tensor, name: str, place: int, found: Derivatives) -> None:
        """Add to `target` [b, o, P] the gradients by a bias or by the scale of a norm in one use."""
        use, g = self.uses[place], self._positions(place, found)
        if use.weight == name:
            z = channels_last(found.inputs[place], use)
            target += (g * z.reshape(len(z), 1, -1, use.units)).sum(2)
        else:
            some = slice(None) if use.bias_rows is None else slice(*use.bias_rows)
            target[..., some] += g.sum(2)

    def _positions(self, place: int, found: Derivatives) -> Tensor:
        """The adjoints of one use, [b, o, S, units]."""
        use, g = self.uses[place], found.adjoints[place]
        return channels_last(g, use).reshape(*g.shape[:2], -1, use.units)

    def _store_inputs(self, target: Tensor, place: int, found: Derivatives) -> None:
        """Write the inputs of one use to `target` [b, S, groups, F], or its tokens to `target` [b, S]."""
        settings, x = self.uses[place].settings, found.inputs[place]
        if isinstance(settings, Lookup):
            tokens = x.reshape(len(x), -1)
            hidden = -1 if settings.padding_idx is None else settings.padding_idx
            target.copy_(tokens.masked_fill(tokens == hidden, -1))
            return
        assert isinstance(settings, Convolution)
        z = patches(x, settings)
        features = z.shape[-1 - len(settings.kernel) :].numel()
        target[..., :features].view(z.shape).copy_(z)
        # A bias has the input one.
        target[..., features:].fill_(1)

    def gradient(self, rows: JacobianRows, along: Tensor) -> dict[str, Tensor]:
        """The gradients of the first example along a direction [o] of its outputs, in the shapes of the parameters."""
        along = along.to(self.dtype)
        # Most gradients are products, which need no zeros before them.
        products = {
            layer.name
            for layer in self.layers.values()
            if layer.rows is None
            and not layer.tokens
            and layer.groups == 1
            and not layer.transposed
        }
        found = {
            name: torch.zeros_like(value, dtype=self.dtype)
            for name, value in self.weights.items()
            if name not in products
        }
        for name, columns in self.columns.items():
            found[name] = (along @ rows.written[0, :, columns]).view(found[name].shape)
        for key, layer in self.layers.items():
            adjoints, z = (value[0] for value in rows.factors[key])
            g = torch.tensordot(along, adjoints, 1)  # [S, groups N]
            if layer.tokens:
                known = z >= 0
                found[layer.name].index_add_(0, z[known], g[known])
                continue
            if layer.bias is not None:
                found[layer.bias] = g.sum(0)
                z = z[..., :-1]
            if layer.name in products:
                shape = self.weights[layer.name].shape
                found[layer.name] = torch.mm(g.mT, z[:, 0]).view(shape)
                continue
            weight = found[layer.name]
            some = weight if layer.rows is None else weight[slice(*layer.rows)]
            if layer.groups == 1 and not layer.transposed:
                torch.mm(g.mT, z[:, 0], out=some.view(layer.N, -1))
                continue
            parts = zip(g.split(layer.N, dim=1), z.unbind(1), strict=True)
            blocks = torch.stack([a.mT @ b for a, b in parts])  # [groups, N, F]
            if layer.transposed:
                # The weight has the channels first.
                channels = len(weight) // layer.groups
                blocks = blocks.unflatten(2, (channels, -1)).transpose(1, 2)
            some.copy_(blocks.reshape(some.shape))
        return found


def _room(layer: Layer, b: int, o: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Room for the adjoints [b, o, S, groups N] and the inputs [b, S, groups, F], or tokens [b, S], of a layer."""
    units = layer.groups * layer.N
    if layer.tokens:
        return like.new_empty(b, o, layer.S, units), like.new_empty(b, layer.S, dtype=torch.long)
    if not layer.spatial:
        return like.new_empty(b, o, layer.S, units), like.new_empty(
            b, layer.S, layer.groups, layer.F
        )
    # Convolutions have the positions last, and to write them in another order takes 7 times longer.
    z = like.new_empty(b, layer.groups, layer.F, layer.S)
    return like.new_empty(b, o, units, layer.S).mT, z.permute(0, 3, 1, 2)


def splits(
    module: nn.Module, weights: dict[str, Tensor], examples: Sequence[Tensor]
) -> list[Split]:
    """The module at each of `examples` [1, …]."""
    call = substituted(module)
    records = [record(call, weights, x) for x in examples]
    ways = ways_of(records)
    return [Split(module, weights, ways, one) for one in records]
