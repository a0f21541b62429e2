"""The layers of a module: the weights whose gradients are kept as factors, with the uses of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from hpr_kernels.tangent.patches import Convolution
from hpr_kernels.tangent.recorded_calls import Scale
from hpr_kernels.tangent.uses import Record, Use, kinds, segments
from hpr_kernels.tangent.views import Rows


class Layer(NamedTuple):
    """The uses of one weight, or of some of its rows, by an example.

    Attributes:
        name: the parameter.
        rows: its first row and the end; None for all of them.
        places: the places of the uses in `Split.uses`.
        S: positions of all uses.
        N: units of a group.
        groups: groups of a convolution, else 1.
        F: inputs of a unit; of an embedding the size of the vocabulary. A bias counts as one more input, whose value is
            one at every position.
        bias: the name of the bias of all these uses and no other use, or None.
        tokens: whether it is an embedding.
        spatial: whether it is a convolution.
        transposed: whether it is a transposed convolution.
    """

    name: str
    rows: Rows | None
    places: list[int]
    S: int
    N: int
    groups: int
    F: int
    bias: str | None
    tokens: bool
    spatial: bool
    transposed: bool


class Ways(NamedTuple):
    """How the gradients by each parameter are computed; the same at inputs of every shape.

    Attributes:
        kinds: the kind of each parameter whose gradients are known from its uses; all others are differentiated
            directly.
        factored: the weights that are kept as factors, and the biases that are joined to them.
        joined: the bias that is kept as one more input of a weight, by the weight's name.
        parts: of each weight that is used in parts, their rows.
    """

    kinds: dict[str, str]
    factored: set[str]
    joined: dict[str, str]
    parts: dict[str, list[Rows]]


def ways_of(records: Sequence[Record]) -> Ways:
    """The ways that serve all of `records`."""
    found = kinds(records)
    uses = [use for one in records for use in one.uses]
    weights = {name for name, kind in found.items() if kind not in ("bias", "scale")}
    joined = _joined(uses, weights, set(found))
    return Ways(found, weights | set(joined.values()), joined, segments(records))


def _joined(uses: Sequence[Use], weights: set[str], known: set[str]) -> dict[str, str]:
    """The biases that occur in all uses of one weight and in no other use, by the weight's name."""
    joined: dict[str, str] = {}
    for weight in weights:
        own = [use for use in uses if use.weight == weight]
        biases = {use.bias for use in own}
        bias = biases.pop() if len(biases) == 1 else None
        in_parts = any(use.weight_rows or use.bias_rows for use in own)
        if bias is None or bias not in known or in_parts:
            continue
        if {use.weight for use in uses if use.bias == bias} == {weight}:
            joined[weight] = bias
    return joined


def layers_of(name: str, weight: Tensor, uses: Sequence[Use], ways: Ways) -> dict[str, Layer]:
    """The layer of a weight by its name, or one of each of its parts that is used."""
    places = [i for i, use in enumerate(uses) if use.weight == name]
    if not places or isinstance(uses[places[0]].settings, Scale):
        return {}
    if name not in ways.parts:
        return {name: _layer(name, weight, None, places, uses, ways.joined.get(name))}
    found = {}
    for first, end in ways.parts[name]:
        inside = [
            i for i in places if first >= uses[i].first_row and end <= uses[i].first_row + uses[i].units
        ]  # fmt: skip
        if inside:
            found[f"{name}[{first}:{end}]"] = _layer(name, weight, (first, end), inside, uses, None)
    return found


def _layer(
    name: str,
    weight: Tensor,
    rows: Rows | None,
    places: list[int],
    uses: Sequence[Use],
    bias: str | None,
) -> Layer:
    found = [uses[place] for place in places]
    S, units = sum(use.shape.numel() // use.units for use in found), found[0].units
    settings = found[0].settings
    if not isinstance(settings, Convolution):
        return Layer(name, None, places, S, units, 1, len(weight), None, True, False, False)
    if rows is not None:
        N, F = rows[1] - rows[0], weight[0].numel()
        return Layer(name, rows, places, S, N, 1, F, None, False, False, False)
    groups, F = settings.groups, weight.numel() // units + (bias is not None)
    return Layer(
        name, None, places, S, units // groups, groups, F, bias, False, bool(settings.kernel),
        settings.transposed,
    )  # fmt: skip


def channels_last(value: Tensor, use: Use) -> Tensor:
    """`value` [..., channels, *spatial] with the channels last."""
    settings = use.settings
    axes = settings.axes if isinstance(settings, Scale) else 0
    axes = len(settings.kernel) if isinstance(settings, Convolution) else axes
    return value.movedim(-(axes + 1), -1)
