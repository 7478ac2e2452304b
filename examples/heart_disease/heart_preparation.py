"""What is done about missing values and about scales: the same at every hospital, from sums that hospitals may share.

Each hospital tells, for each column, how many of its *training* patients have a value, the sum and the sum of squares. Added up
over the hospitals these give the means and deviations that one would compute from all records in one place. Then a value is
counted in deviations from the mean, and one that is missing is the mean: 0. No test patient has a part in it, and no single
record leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from heart_records import COLUMNS, Floats, Patients


@dataclass(frozen=True)
class Statistics:
    """How many values there are, their sum and the sum of their squares: three rows with one entry for each column."""

    sums: Floats

    @classmethod
    def of(cls, patients: Patients) -> Statistics:
        """Those of some patients; what is missing is left out."""
        found = patients.features
        return cls(np.stack([(~np.isnan(found)).sum(axis=0), np.nansum(found, axis=0), np.nansum(found**2, axis=0)]))

    @classmethod
    def total(cls, parts: Iterable[Statistics]) -> Statistics:
        """Those of all patients together."""
        return cls(np.sum([part.sums for part in parts], axis=0))

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """Read what :meth:`to_bytes` gives."""
        return cls(np.frombuffer(data).reshape(3, len(COLUMNS)))

    def to_bytes(self) -> bytes:
        """As a property that a client may tell."""
        return self.sums.tobytes()

    def scaling(self) -> Scaling:
        """Mean and deviation of each column; 0 and 1 for one in which nobody has a value."""
        count, total, squares = self.sums
        mean = total / np.maximum(count, 1)
        variance = squares / np.maximum(count, 1) - mean**2
        # A column in which all are the same has no deviation, up to rounding.
        constant = variance <= 1e-12 * np.maximum(squares / np.maximum(count, 1), 1e-12)
        return Scaling(np.stack([mean, np.sqrt(np.where(constant, 1.0, variance))]))


@dataclass(frozen=True)
class Scaling:
    """Mean and deviation: two rows with one entry for each column."""

    moments: Floats

    @classmethod
    def from_bytes(cls, data: bytes) -> Scaling:
        """Read what :meth:`to_bytes` gives."""
        return cls(np.frombuffer(data).reshape(2, len(COLUMNS)))

    def to_bytes(self) -> bytes:
        """As an entry of a task's config."""
        return self.moments.tobytes()

    def apply(self, patients: Patients) -> Patients:
        """The patients with scaled features; what was missing is 0."""
        mean, deviation = self.moments
        return Patients(np.nan_to_num((patients.features - mean) / deviation, nan=0.0), patients.labels)
