"""From the values of names to the runs of a sweep: the product of all axes, checked and bound to their tasks."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, get_args

import numpy as np

from hpr.connectivity import KINDS, Connectivity, Dense, FromFile, drawn
from hpr.experiment.binding import bind
from hpr.experiment.combinations import check_task
from hpr.experiment.plan import TaskOf, tasks
from hpr.experiment.specification import RunSpec, distinct
from hpr.fields import LONGEST_TEXT, check_integer, shown
from hpr.sweeps.field_names import (
    RUN_FIELDS,
    check_name,
    hint_of,
    is_tuple,
    kinds_with,
)
from hpr.sweeps.parts import (
    Sources,
    StructureChoice,
    described,
    near_task,
    structure_choice,
    task_choice,
    version_of,
)
from hpr.tasks import Task

# The most runs of a sweep.
MOST_RUNS = 100_000


@dataclass(frozen=True)
class Setting:
    """The runs that differ in the seed alone: the values of the names that vary, and one run per seed.

    `connectivity` is what tables and plots call the structure.
    """

    values: Mapping[str, Any]
    connectivity: str
    runs: tuple[RunSpec, ...]


@dataclass
class Experiment:
    """A sweep before it is run: its axes as they were resolved, its settings, and where its tasks come from."""

    axes: dict[str, list[Any]]
    choices: list[StructureChoice]
    settings: list[Setting]
    sources: Sources
    task_of: TaskOf
    # The values of `teacher` as they were given, and the runs that follow from them.
    teacher_values: list[Any] = field(default_factory=lambda: [None])
    teachers: list[RunSpec] = field(default_factory=list)

    @property
    def runs(self) -> list[RunSpec]:
        """Every run once; teachers come before their students."""
        return distinct(
            [*self.teachers, *(run for setting in self.settings for run in setting.runs)]
        )


def as_axes(values: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Each name with the list of its values. One value is a list of one; a tuple field takes a list of lists.

    Raises:
        ValueError: one line; a list is empty.
    """
    found = {}
    for name, value in values.items():
        several = isinstance(value, list | tuple | range)
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value, several = value.tolist(), True
        if several and is_tuple(name):
            several = any(isinstance(item, list | tuple) for item in value)
        found[name] = list(value) if several else [value]
        if not found[name]:
            raise ValueError(f"{name}: expected a value or a list of values, got an empty list")
    return found


def expand(
    values: Mapping[str, Any],
    *,
    sources: Sources | None = None,
    mnist_dir: Any = None,
    skip_binding: Sequence[str] = (),
) -> Experiment:
    """The runs of a sweep, each checked and bound to its task's content, before anything is trained.

    Args:
        values: by name, one value or several: the fields of a run and of its connectivity, and `seeds`, the number of
            seeds from 0 on.
        sources: where files that are read are noted.
        mnist_dir: see `hpr.tasks.make_task`.
        skip_binding: tasks that are not made, since that would download data.

    Raises:
        ValueError: one line that names the field, what was expected, and what was given.
        OSError: a file can't be read.
    """
    sources = Sources() if sources is None else sources
    axes = as_axes(values)
    axes["task"] = [task_choice(value, sources) for value in axes.get("task", [])]
    axes["seed"] = _seeds(axes)
    teachers = axes.pop("teacher", [None])
    choices = [structure_choice(value, sources) for value in axes.pop("connectivity", [])]
    for name in axes:
        check_name(name, (own for choice in choices for own in choice.axes))
    if not axes["task"]:
        raise ValueError("task: expected a task, such as '2AF', got none")
    own = [name for name in axes if name not in RUN_FIELDS]
    choices = choices or [_inferred(own)]
    if axes.get("rescale") == ["kept"]:
        # A choice must know it, since its gain then has no effect.
        choices = [_kept(choice) for choice in choices]
    _check_effect(own, choices)
    task_of = _TaskOf(sources.tasks, tasks(mnist_dir))
    experiment = Experiment(axes, choices, [], sources, task_of, teacher_values=teachers)
    total = 1
    for name, several in axes.items():
        for place, value in enumerate(several):
            several[place] = _coerced(name, value)
        _check_once(name, map(_plain, several))
        total *= len(several)
    _check_once("connectivity", map(described, choices))
    if total * len(choices) > MOST_RUNS:
        raise ValueError(f"runs: expected at most {MOST_RUNS:,}, got {total * len(choices):,}")
    for setting in _settings(experiment):
        runs = tuple(_bound(run, experiment.task_of, skip_binding) for run in setting.runs)
        experiment.settings.append(Setting(setting.values, setting.connectivity, runs))
        experiment.teachers += [run.teacher for run in runs if run.teacher is not None]
    return experiment


def _check_effect(names: Sequence[str], choices: Sequence[StructureChoice]) -> None:
    """Refuse a name that has an effect on none of the structures."""
    for name in names:
        if not any(name in choice.axes for choice in choices):
            kept = " with rescale = 'kept'"
            kinds = dict.fromkeys(
                f"{choice.cls.kind}{kept * (choice.given.get('rescale') == 'kept')}"
                for choice in choices
            )
            raise ValueError(
                f"{name}: expected a connectivity that it has an effect on ({', '.join(kinds_with(name))}), "
                f"got {', '.join(kinds)}"
            )


def _check_once(name: str, values: Iterable[str]) -> None:
    """Refuse a value that is given twice, whose runs would count twice."""
    twice = [value for value, number in Counter(values).items() if number > 1]
    if twice:
        raise ValueError(f"{name}: expected each value once, got {twice[0]} twice")


def _seeds(axes: dict[str, list[Any]]) -> list[Any]:
    """The numbers of the seeds; `seeds` is taken out of the axes."""
    seeds = axes.pop("seeds", None)
    if seeds is None:
        return axes.get("seed", [0])
    if "seed" in axes:
        raise ValueError(
            "seeds: expected seeds, their number, or seed, the numbers themselves, got both"
        )
    if len(seeds) > 1:
        return seeds
    (count,) = seeds
    if not isinstance(count, int) or isinstance(count, bool):
        raise ValueError(f"seeds: expected a number of seeds, got {shown(count)}")
    check_integer("seeds", count, 1, 10_000)
    return list(range(count))


def _kept(choice: StructureChoice) -> StructureChoice:
    given = {**choice.given, "rescale": "kept"}
    return replace(choice, given=given) if choice.cls is FromFile else choice


def _inferred(names: Sequence[str]) -> StructureChoice:
    """The structure where none is given: the one that has the fields that are."""
    if not set(names) - {"gain", "distribution"}:
        return StructureChoice(Dense)
    fitting = [
        cls
        for cls in KINDS.values()
        if cls is not FromFile and set(names) <= set(StructureChoice(cls).axes)
    ]
    if len(fitting) != 1:
        of = "; ".join(f"{name} of {', '.join(kinds_with(name))}" for name in names)
        raise ValueError(f"connectivity: expected which structures to take ({of}), got none")
    return StructureChoice(fitting[0])


def _coerced(name: str, value: Any) -> Any:
    """A value as its field takes it, from TOML too, which has no null and no tuples."""
    if isinstance(value, list):
        return tuple(value)
    if value == "none" and NoneType in get_args(hint_of(name)):
        return None
    return value


def _plain(value: Any) -> str:
    """A value as text, the same for 1, 1.0 and NumPy's numbers, which are one value of a run."""
    if isinstance(value, np.generic):
        value = value.item()
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


@dataclass(frozen=True)
class _TaskOf:
    """From a run to its task; it can be sent to a worker process if the tasks that were given as objects can."""

    given: dict[str, Task]
    made: TaskOf

    def __call__(self, spec: RunSpec) -> Task:
        if spec.task in self.given:
            return self.given[spec.task]
        try:
            return self.made(spec)
        except ValueError as error:
            # Some errors of making a task name the argument themselves.
            told = str(error).removeprefix("task: ")
            raise ValueError(f"task: {told}{near_task(spec.task)}") from error


def _settings(experiment: Experiment) -> Iterator[Setting]:
    """The product of all axes but the seed, without the binding of the runs."""
    axes, sources = experiment.axes, experiment.sources
    names = _names(experiment.choices)
    sizes = sorted({size for choice in experiment.choices if (size := _units(choice)) is not None})
    for choice, name in zip(experiment.choices, names, strict=True):
        own = [each for each in axes if each in choice.axes and each not in RUN_FIELDS]
        mine = {each: axes[each] for each in axes if each in own or each in RUN_FIELDS}
        seeds = mine.pop("seed")
        units = _units(choice)
        # A structure without data has the size of those with data, as a matrix and its null.
        mine.setdefault("N", [units] if units is not None else sizes or [RunSpec.N])
        mine["teacher"] = list(range(len(experiment.teacher_values)))
        shown_names = [each for each in mine if len(mine[each]) > 1 or (each == "N" and sizes[1:])]
        for told in _product(mine, list(mine)):
            structure = choice.make({each: told[each] for each in own})
            fields = {each: told[each] for each in told if each not in own}
            teacher = experiment.teacher_values[fields.pop("teacher")]
            if "task_version" not in fields:
                dt = fields.get("dt", RunSpec.dt)
                fields["task_version"] = version_of(fields["task"], dt, sources)
            kept = {each: told[each] for each in shown_names}
            if len(names) > 1:
                kept = {"connectivity": name, **kept}
            runs = tuple(
                _run({**fields, "seed": seed}, structure, teacher, sources) for seed in seeds
            )
            yield Setting(kept, name, runs)


def _product(axes: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*(axes[name] for name in names)):
        yield dict(zip(names, combination, strict=True))


def _units(choice: StructureChoice) -> int | None:
    """The number of units that a structure's data have."""
    return choice.make({}).units


def _names(choices: Sequence[StructureChoice]) -> list[str]:
    """What tables call each structure: its kind where no field was given, else its label, or all that was given."""
    made = [choice.make({}).label if choice.given else choice.cls.kind for choice in choices]
    counts = Counter(made)
    return [
        described(choice)[:LONGEST_TEXT] if counts[name] > 1 else name
        for choice, name in zip(choices, made, strict=True)
    ]


def _run(
    fields: dict[str, Any], structure: Connectivity, teacher: Any, sources: Sources
) -> RunSpec:
    if teacher is None or isinstance(teacher, RunSpec):
        return RunSpec(connectivity=structure, teacher=teacher, **fields)
    if not isinstance(teacher, Mapping):
        raise ValueError(f"teacher: expected a table of fields, got {shown(teacher)}")
    # A teacher is like its student in all that the table does not name.
    for name in teacher:
        check_name(name)
    own = {name: _coerced(name, value) for name, value in teacher.items() if name in RUN_FIELDS}
    others = {name: value for name, value in teacher.items() if name not in RUN_FIELDS}
    (told,) = as_axes({"connectivity": own.pop("connectivity", structure)})["connectivity"]
    choice = structure_choice(told, sources)
    base = {name: value for name, value in fields.items() if name != "aligned"}
    trained = RunSpec(connectivity=choice.make(others), **{**base, **own, "keep_weights": True})
    return RunSpec(connectivity=structure, teacher=trained, **fields)


def _bound(run: RunSpec, task_of: Callable[[RunSpec], Task], skipped: Sequence[str]) -> RunSpec:
    if run.task in skipped:
        drawn(run.connectivity, run.N, run.seed)
        return run
    task = task_of(run)
    check_task(run, task)
    return bind(run, task)
