"""Fetch a piece of the MICrONS V1 column from CAVE: `python -m hpr.connectivity.cave FOLDER`.

It needs the extra `em` (`caveclient`) and a token of the service, which is set up once as caveclient's documentation
describes. The code was written for caveclient 8.2 and has not been run against the service, since no token was at hand.
"""

from __future__ import annotations

import csv
import io
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpr.command_line import Parser, path, positive
from hpr.system.extras import install
from hpr.system.files import write_atomically

DATASTACK = "minnie65_public"
VERSION = 1300
TYPES = "allen_v1_column_types_slanted_ref"
PROOFREADING = "proofreading_status_and_strategy"
# The cell types on both sides of the border between the layers that the paper names.
LAYERS = ("23P", "4P")
CELLS = 198


def fetch(folder: Path, *, N: int = CELLS, version: int = VERSION) -> None:
    """Write `cells.csv` and `synapses.csv` of the N proofread neurons nearest to the midpoint of layers 2/3 and 4.

    The paper took 198 such neurons and gives no list of them (Appendix C.1). Here the candidates are the neurons of the
    manually typed V1 column whose axon and dendrite are both marked as proofread. The midpoint lies between the mean
    depths of the column's layer 2/3 and layer 4 pyramidal cells.

    Args:
        folder: where to write; `hpr.connectivity.connectome.read_folder` reads the two files.
        N: how many neurons.
        version: materialisation of the data, so that the same call gives the same cells.

    Raises:
        ModuleNotFoundError: caveclient is missing.
        ValueError: N is no positive integer, fewer than N such neurons are there, or an identifier is no whole number.
        OSError: the folder can't be written. There is then no `cells.csv`, so an incomplete pair can't be read.
    """
    if not isinstance(N, int) or N < 1:
        raise ValueError(f"N: expected an integer of at least 1, got {N!r}")
    from caveclient import CAVEclient

    service = CAVEclient(DATASTACK, version=version).materialize
    types = service.query_table(
        TYPES, split_positions=True, desired_resolution=(1, 1, 1), materialization_version=version
    )
    status = service.query_table(PROOFREADING, materialization_version=version)
    chosen = _choose(types, status, N)
    roots, kinds = _ids(types, "pt_root_id"), types["classification_system"].tolist()
    ids = [roots[n] for n in chosen]
    cells = [(roots[n], kinds[n]) for n in chosen]
    synapses = service.synapse_query(pre_ids=ids, post_ids=ids, materialization_version=version)
    columns = ("pre_pt_root_id", "post_pt_root_id", "size")
    ends = (_ids(synapses, name) for name in columns[:2])
    rows = zip(*ends, synapses["size"].tolist(), strict=True)
    # Without its old `cells.csv` the folder can't be read while the new tables are written.
    (folder / "cells.csv").unlink(missing_ok=True)
    _write(folder / "synapses.csv", columns, rows)
    _write(folder / "cells.csv", ("pt_root_id", "classification_system"), cells)


def _choose(types: Any, status: Any, N: int) -> list[int]:
    """The N chosen rows of the type table, nearest to the midpoint first."""
    roots = _ids(types, "pt_root_id")
    clean = _clean(status)
    depth = np.asarray(types["pt_position_y"].tolist(), dtype=float)
    kinds = np.asarray(types["cell_type"].tolist())
    midpoint = np.mean([depth[kinds == layer].mean() for layer in LAYERS])
    # A root that is listed twice is a segment of two merged nuclei, not a single neuron.
    able = [n for n, root in enumerate(roots) if root in clean and roots.count(root) == 1]
    if len(able) < N:
        raise ValueError(f"N: expected at most the {len(able)} proofread neurons there, got {N}")
    return sorted(able, key=lambda n: (abs(depth[n] - midpoint), roots[n]))[:N]


def _clean(status: Any) -> set[int]:
    flags = (status[name].tolist() for name in ("status_axon", "status_dendrite"))
    # The service gives these flags as booleans or as PostgreSQL's letters.
    true = {"true", "t"}
    return {
        root
        for root, axon, dendrite in zip(_ids(status, "pt_root_id"), *flags, strict=True)
        if str(axon).lower() in true and str(dendrite).lower() in true
    }


def _ids(table: Any, name: str) -> list[int]:
    """A column of identifiers as integers; floats are refused, since they lost their last digits."""
    try:
        return [operator.index(root) for root in table[name].tolist()]
    except TypeError as error:
        raise ValueError(f"{name}: expected whole numbers from the service, got {error}") from None


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    write_atomically(path, content.getvalue().encode())


def main() -> None:
    """Run the command line. Every failure is reported in one line, with exit status 2."""
    parser = Parser(prog="hpr.connectivity.cave", description=__doc__)
    parser.add_argument("folder", type=path)
    parser.add_argument("--cells", type=positive, default=CELLS, help=f"default: {CELLS}")
    parser.add_argument("--version", type=positive, default=VERSION, help=f"default: {VERSION}")
    arguments = parser.parse_args()
    try:
        fetch(arguments.folder, N=arguments.cells, version=arguments.version)
    except ModuleNotFoundError as error:
        parser.error(f"{error}; install what it needs: {install('em')}")
    except Exception as error:
        # The service's client raises errors of many libraries: of access, of the network, of the tables.
        parser.error(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
