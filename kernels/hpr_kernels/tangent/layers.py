"""The tangent Jacobian of a module, parameter by parameter: as factors if all uses are known, else written out."""

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
    """The uses of one weight by an example.

    Attributes:
        places: the places of the uses in `Split.uses`.
        S: positions of all uses.
        N: units of a group.
        groups: groups of a convolution, else 1.
        F: inputs of a unit; of an embedding the size of the vocabulary.
        tokens: whether it is an embedding.
        transposed: whether it is a transposed convolution.
    """

    places: list[int]
    S: int
    N: int
    groups: int
    F: int
    tokens: bool
    transposed: bool


def _layer(weight: Tensor, places: list[int], uses: Sequence[Use]) -> Layer:
    found = [uses[place] for place in places]
    S, units = sum(use.shape.numel() // use.units for use in found), found[0].units
    settings = found[0].settings
    if isinstance(settings, Convolution):
        groups, F = settings.groups, weight.numel() // units
        return Layer(places, S, units // groups, groups, F, False, settings.transposed)
    return Layer(places, S, units, 1, len(weight), True, False)


class Split:
    """A module, differentiated at inputs of one shape by some of its parameters.

    Args:
        module: a copy that is nobody else's.
        weights: the parameters to differentiate by.
        kept: those among them whose gradients are kept as factors.
        found: the uses by one example of the shape.
    """

    def __init__(
        self, module: nn.Module, weights: dict[str, Tensor], kept: set[str], found: Record
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
        self.biases: dict[str, list[int]] = {}
        for name, value in self.constants.items():
            by_weight = [i for i, use in enumerate(self.uses) if use.weight == name]
            if by_weight:
                self.layers[name] = _layer(value, by_weight, self.uses)
            by_bias = [i for i, use in enumerate(self.uses) if use.bias == name]
            if by_bias:
                self.biases[name] = by_bias

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
            if name in self.layers:
                layer = self.layers[name]
                g, z = self.adjoints(layer, rows)[0, 0], self.inputs(layer, rows)[0]
                if layer.tokens:
                    known = z >= 0
                    found[name].index_add_(0, z[known], g[known])
                else:
                    parts = zip(g.split(layer.N, dim=1), z.unbind(1), strict=True)
                    blocks = torch.stack([a.mT @ b for a, b in parts])  # [groups, N, F]
                    if layer.transposed:
                        # The weight has the channels first.
                        channels = len(weight) // layer.groups
                        blocks = blocks.unflatten(2, (channels, -1)).transpose(1, 2)
                    found[name] = blocks.reshape(weight.shape)
            if name in self.biases:
                found[name] = self.bias(name, rows)[0, 0]
        return found

    def adjoints(self, layer: Layer, rows: ModuleRows) -> Tensor:
        """Those of all uses of a weight, [b, o, S, units]."""
        return torch.cat([self._positions(place, rows) for place in layer.places], dim=2)

    def inputs(self, layer: Layer, rows: ModuleRows) -> Tensor:
        """Those of all uses of a weight: [b, S, groups, F], or the tokens [b, S], -1 where there is no gradient."""
        found = []
        for place in layer.places:
            settings, x = self.uses[place].settings, rows.inputs[place]
            if isinstance(settings, Convolution):
                found.append(patches(x, settings))
            else:
                tokens = x.reshape(len(x), -1)
                hidden = -1 if settings.padding_idx is None else settings.padding_idx
                found.append(tokens.masked_fill(tokens == hidden, -1))
        return torch.cat(found, dim=1)

    def bias(self, name: str, rows: ModuleRows) -> Tensor:
        """The gradients by a bias, [b, o, units]."""
        found = [self._positions(place, rows).sum(2) for place in self.biases[name]]
        return torch.stack(found).sum(0) if len(found) > 1 else found[0]

    def _positions(self, place: int, rows: ModuleRows) -> Tensor:
        """The adjoints of one use, [b, o, S, units]."""
        use, g = self.uses[place], rows.adjoints[place]
        axes = len(use.settings.kernel) if isinstance(use.settings, Convolution) else 0
        return g.movedim(-(axes + 1), -1).reshape(*g.shape[:2], -1, use.units)


def splits(
    module: nn.Module, weights: dict[str, Tensor], examples: Sequence[Tensor]
) -> list[Split]:
    """The module at each of `examples` [1, …]; the same parameters are factored at all of them."""
    call = substituted(module)
    records = [record(call, weights, x) for x in examples]
    kept = factored(records)
    return [Split(module, weights, kept, one) for one in records]
