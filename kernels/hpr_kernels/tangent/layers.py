"""The tangent Jacobian of a module, parameter by parameter: as factors if all uses are known, else written out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hpr_kernels.tangent.patches import Convolution, Lookup, patches
from hpr_kernels.tangent.recorded_calls import Scale
from hpr_kernels.tangent.uses import (
    Record,
    Recorder,
    Use,
    kinds,
    record,
    segments,
    substituted,
)
from hpr_kernels.tangent.views import Rows


class ModuleRows(NamedTuple):
    """Rows of the Jacobian by some examples and some outputs of each.

    Attributes:
        adjoints: of each use, the gradients [b, o, *shape of the result].
        inputs: of each use, [b, *shape of the input].
        direct: the gradients by the parameters that are not factored, [b, o, *shape].
    """

    adjoints: list[Tensor]
    inputs: list[Tensor]
    direct: dict[str, Tensor]


class Layer(NamedTuple):
    """The uses of one weight, or of some of its rows, by an example.

    Attributes:
        name: the parameter.
        rows: its first row and the end; None for all of them.
        places: the places of the uses in `Split.uses`.
        S: positions of all uses.
        N: units of a group.
        groups: groups of a convolution, else 1.
        F: inputs of a unit; of an embedding the size of the vocabulary.
        tokens: whether it is an embedding.
        transposed: whether it is a transposed convolution.
    """

    name: str
    rows: Rows | None
    places: list[int]
    S: int
    N: int
    groups: int
    F: int
    tokens: bool
    transposed: bool


def _layers(
    name: str, weight: Tensor, uses: Sequence[Use], parts: Sequence[Rows] | None
) -> dict[str, Layer]:
    """The layer of a weight by its name, or one of each of its parts that is used."""
    places = [i for i, use in enumerate(uses) if use.weight == name]
    if not places or isinstance(uses[places[0]].settings, Scale):
        return {}
    if parts is None:
        return {name: _layer(name, weight, None, places, uses)}
    found = {}
    for first, end in parts:
        inside = [
            i for i in places if first >= uses[i].first_row and end <= uses[i].first_row + uses[i].units
        ]  # fmt: skip
        if inside:
            found[f"{name}[{first}:{end}]"] = _layer(name, weight, (first, end), inside, uses)
    return found


def _layer(
    name: str, weight: Tensor, rows: Rows | None, places: list[int], uses: Sequence[Use]
) -> Layer:
    found = [uses[place] for place in places]
    S, units = sum(use.shape.numel() // use.units for use in found), found[0].units
    settings = found[0].settings
    if isinstance(settings, Convolution):
        groups = settings.groups
        if rows is not None:
            first, end = rows
            return Layer(name, rows, places, S, end - first, 1, weight[0].numel(), False, False)
        F, transposed = weight.numel() // units, settings.transposed
        return Layer(name, None, places, S, units // groups, groups, F, False, transposed)
    return Layer(name, None, places, S, units, 1, len(weight), True, False)


class Split:
    """A module, differentiated at inputs of one shape by some of its parameters.

    Args:
        module: a copy that is nobody else's.
        weights: the parameters to differentiate by.
        kept: those among them whose gradients are kept as factors.
        found: the uses by one example of the shape.
        parts: of each weight that is used in parts, their rows.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: dict[str, Tensor],
        kept: set[str],
        found: Record,
        parts: dict[str, list[Rows]],
    ) -> None:
        self.call = substituted(module)
        self.constants = {name: value for name, value in weights.items() if name in kept}
        self.direct = {name: value for name, value in weights.items() if name not in kept}
        self.outputs, self.dtype = found.outputs, found.dtype
        named = [
            use._replace(
                weight=use.weight if use.weight in kept else None,
                bias=use.bias if use.bias in kept else None,
            )
            for use in found.uses
        ]
        self.uses = [use for use in named if use.weight is not None or use.bias is not None]
        self.layers: dict[str, Layer] = {}
        # The places of biases and of the scales of norms, whose gradients are written out.
        self.biases: dict[str, list[int]] = {}
        for name, value in self.constants.items():
            layers = _layers(name, value, self.uses, parts.get(name))
            self.layers |= layers
            if not layers:
                self.biases[name] = [
                    i for i, use in enumerate(self.uses) if name in (use.weight, use.bias)
                ]

    def rows(self, x: Tensor, directions: Tensor) -> ModuleRows:
        """The gradients of outputs of the examples x [b, …] along directions [o, O] in the space of the outputs."""
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
        return ModuleRows(adjoints, inputs, direct)

    def gradient(self, x: Tensor, along: Tensor) -> dict[str, Tensor]:
        """The gradients of one example x of its outputs along one direction [O], in the shapes of the parameters."""
        rows = self.rows(x[None], along[None])
        found = {name: value[0, 0] for name, value in rows.direct.items()}
        for name, weight in self.constants.items():
            found[name] = torch.zeros_like(weight)
            if name in self.biases:
                found[name] = self.bias(name, rows)[0, 0].view_as(weight)
        for layer in self.layers.values():
            weight = found[layer.name]
            g, z = self.adjoints(layer, rows)[0, 0], self.inputs(layer, rows)[0]
            if layer.tokens:
                known = z >= 0
                weight.index_add_(0, z[known], g[known])
            else:
                parts = zip(g.split(layer.N, dim=1), z.unbind(1), strict=True)
                blocks = torch.stack([a.mT @ b for a, b in parts])  # [groups, N, F]
                if layer.transposed:
                    # The weight has the channels first.
                    channels = len(weight) // layer.groups
                    blocks = blocks.unflatten(2, (channels, -1)).transpose(1, 2)
                some = weight if layer.rows is None else weight[slice(*layer.rows)]
                some.copy_(blocks.reshape(some.shape))
        return found

    def adjoints(self, layer: Layer, rows: ModuleRows) -> Tensor:
        """Those of all uses of a layer, [b, o, S, units]."""
        found = [self._positions(place, rows) for place in layer.places]
        if layer.rows is not None:
            first, end = layer.rows
            starts = [self.uses[place].first_row for place in layer.places]
            found = [g[..., first - at : end - at] for g, at in zip(found, starts, strict=True)]
        return torch.cat(found, dim=2)

    def inputs(self, layer: Layer, rows: ModuleRows) -> Tensor:
        """Those of all uses of a weight: [b, S, groups, F], or the tokens [b, S], -1 where there is no gradient."""
        found = []
        for place in layer.places:
            settings, x = self.uses[place].settings, rows.inputs[place]
            if isinstance(settings, Convolution):
                found.append(patches(x, settings))
            elif isinstance(settings, Lookup):
                tokens = x.reshape(len(x), -1)
                hidden = -1 if settings.padding_idx is None else settings.padding_idx
                found.append(tokens.masked_fill(tokens == hidden, -1))
        return torch.cat(found, dim=1)

    def bias(self, name: str, rows: ModuleRows) -> Tensor:
        """The gradients by a bias or by the scale of a norm, [b, o, units]."""
        total: Tensor | None = None
        for place in self.biases[name]:
            use, g = self.uses[place], self._positions(place, rows)
            if use.weight == name:
                z = _channels_last(rows.inputs[place], use)
                one = (g * z.reshape(len(z), 1, -1, use.units)).sum(2)
            else:
                one = g.sum(2)
                if use.bias_rows is not None:
                    first, end = use.bias_rows
                    one = pad(one, (first, self.constants[name].numel() - end))
            total = one if total is None else total + one
        assert total is not None
        return total

    def _positions(self, place: int, rows: ModuleRows) -> Tensor:
        """The adjoints of one use, [b, o, S, units]."""
        use, g = self.uses[place], rows.adjoints[place]
        return _channels_last(g, use).reshape(*g.shape[:2], -1, use.units)


def _channels_last(value: Tensor, use: Use) -> Tensor:
    """`value` [..., channels, *spatial] with the channels last."""
    settings = use.settings
    axes = settings.axes if isinstance(settings, Scale) else 0
    axes = len(settings.kernel) if isinstance(settings, Convolution) else axes
    return value.movedim(-(axes + 1), -1)


def splits(
    module: nn.Module, weights: dict[str, Tensor], examples: Sequence[Tensor]
) -> list[Split]:
    """The module at each of `examples` [1, …]; the same parameters are factored at all of them."""
    call = substituted(module)
    records = [record(call, weights, x) for x in examples]
    kept, parts = set(kinds(records)), segments(records)
    return [Split(module, weights, kept, one, parts) for one in records]
