"""The trained weights of the teachers of a pack's runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hpr.experiment.record import Record
from hpr.experiment.run_outcome import no_memory
from hpr.experiment.specification import RunSpec
from hpr.training.pack import Weights
from hpr.training.watch import Stopped
from hpr.training.weights import decoded


class Pretrained:
    """The weights of teachers, each found once, from its record or by training it now.

    Args:
        records: records of teachers by key.
        train: trains a teacher.
    """

    def __init__(self, records: Mapping[str, Record], train: Callable[[RunSpec], Record]) -> None:
        self._records, self._train = records, train
        self._errors: dict[str, Exception] = {}
        self.weights: dict[str, Weights] = {}
        self.trained: list[RunSpec] = []

    def find(self, spec: RunSpec) -> None:
        """Let `weights` have those of a run's teacher.

        Raises:
            ValueError: the teacher diverged.
            Exception: what training the teacher raises, once per run that has this teacher.
        """
        teacher = spec.teacher
        if teacher is None or teacher.key in self.weights:
            return
        if teacher.key in self._errors:
            raise self._errors[teacher.key]
        record = self._records.get(teacher.key)
        try:
            if record is None:
                record = self._train(teacher)
                self.trained.append(teacher)
            if "weights" not in record:
                raise ValueError(
                    f"teacher: expected a trained network, got {teacher}, which diverged"
                )
            self.weights[teacher.key] = decoded(record["weights"])
        except Exception as error:
            if not isinstance(error, Stopped) and not no_memory(error):
                self._errors[teacher.key] = error
            raise
