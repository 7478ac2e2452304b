"""The driver's files of large parameters."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from hedgerow.aggregation import WeightedMean
from hedgerow.driver.parameter_files import MIN_BYTES, ParameterFiles
from hedgerow.errors import InvalidArgument
from hedgerow.records import NDArray, Parameters
from hedgerow.wire import tensors
from hedgerow.wire.narrow import NarrowParameters

LARGE = MIN_BYTES // 4


def model(size: int = LARGE) -> Parameters:
    rng = np.random.default_rng(0)
    return Parameters({"w": rng.standard_normal((size, 1), dtype=np.float32), "b": np.ones(3, ml_dtypes.bfloat16)})


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[ParameterFiles]:
    made = ParameterFiles(tmp_path)
    yield made
    made.close()
    assert list(tmp_path.iterdir()) == []


def test_large_parameters_are_the_same_and_lie_in_a_file_for_as_long_as_they_are_used(
    files: ParameterFiles, tmp_path: Path
) -> None:
    given = model()
    filed = files.filed(given)
    assert filed is not given
    path = files.path(filed)
    assert path is not None
    assert path.read_bytes() == tensors.dumps(filed) == tensors.dumps(given)
    assert files.filed(filed) is filed, "once is enough"
    array = filed["w"]
    del filed
    gc.collect()
    assert files_in(tmp_path) == []
    assert array.tobytes() == given["w"].tobytes(), "what is mapped stays"


def test_small_parameters_touch_no_file(files: ParameterFiles, tmp_path: Path) -> None:
    small = model(10)
    assert files.filed(small) is small
    mean = WeightedMean()
    mean.add(small, 1)
    assert tensors.dumps(mean.result(room=files)) == tensors.dumps(small)
    assert list(tmp_path.iterdir()) == []


def test_a_fold_into_a_file_gives_the_same_bits_as_one_into_memory(files: ParameterFiles) -> None:
    mean = WeightedMean()
    for scale, weight in ((1, 3), (-3, 5), (7, 1)):
        mean.add(
            Parameters({name: (array * array.dtype.type(scale)).astype(array.dtype) for name, array in model().items()}), weight
        )
    filed = mean.result(room=files)
    assert files.path(filed) is not None
    assert tensors.dumps(filed) == tensors.dumps(mean.result())
    assert {array.flags.writeable for array in filed.values()} == {False}


def test_a_fold_that_fails_leaves_no_file(files: ParameterFiles, tmp_path: Path) -> None:
    def blocks() -> Iterator[NDArray]:
        yield np.zeros(10, np.float32)
        raise MemoryError

    with pytest.raises(MemoryError):
        files.put({"w": ((LARGE,), np.dtype(np.float32))}, blocks())
    with pytest.raises(InvalidArgument, match="needs"):
        files.put({"w": ((LARGE,), np.dtype(np.float32))}, [np.zeros(10, np.float32)])
    with pytest.raises(InvalidArgument, match="cannot be stored"):
        files.filed(Parameters({"w": np.zeros(MIN_BYTES, "S1")}))
    assert files_in(tmp_path) == []


def test_a_file_of_others_is_adopted_and_may_go(files: ParameterFiles, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_bytes(tensors.dumps(model()))
    parameters = tensors.map_file(theirs)
    files.adopt(parameters, theirs)
    theirs.unlink()
    path = files.path(parameters)
    assert path is not None
    assert path.read_bytes() == tensors.dumps(model())
    other = tensors.view(tensors.dumps(model()))
    files.adopt(other, tmp_path / "not there")
    assert files.path(other) is None


def test_a_file_in_16_bits_is_not_the_file_of_the_parameters_that_it_gives(files: ParameterFiles, tmp_path: Path) -> None:
    """That file would be kept as a checkpoint, or be sent to a client that does not know the 16-bit float."""
    sent = files.as_sent(model(), "bfloat16")
    assert isinstance(sent, NarrowParameters)
    assert files.path(sent) is None
    (narrow,) = files_in(tmp_path)
    assert narrow.stat().st_size == tensors.nbytes(sent, "bfloat16")
    filed = files.filed(sent)
    path = files.path(filed)
    assert path is not None
    assert path.read_bytes() == tensors.dumps(sent)
    del sent, filed
    gc.collect()
    assert files_in(tmp_path) == []


def test_what_lies_as_it_is_sent_is_not_written_again(files: ParameterFiles, tmp_path: Path) -> None:
    trees = Parameters({"tree": np.zeros(2 * MIN_BYTES, np.uint8)})
    assert files.as_sent(trees, "bfloat16") is trees
    assert files.as_sent(trees, "") is trees
    sent = tensors.view(tensors.dumps(model(10), "bfloat16"))
    assert files.as_sent(sent, "bfloat16") is sent
    assert list(tmp_path.iterdir()) == []
    again = files.as_sent(sent, "float16")
    assert isinstance(again, NarrowParameters)
    assert again.transport_dtype == "float16"
    assert tensors.dumps(again, "float16") == tensors.dumps(sent, "float16")
