"""The example's images: fetched once however many ask at once, checked, and shared out without overlap."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals"
FETCH_S = 120
FETCH = """
import sys, dataset
dataset.BASE_URL = sys.argv[1]
dataset.shutil.which = lambda program: None
print(dataset.fetch())
"""


@pytest.fixture(scope="module")
def cached() -> Path:
    """The folder that the example's processes use, filled."""
    command = [sys.executable, "-c", "import dataset; print(dataset.fetch())"]
    done = subprocess.run(command, cwd=EXAMPLE, check=True, capture_output=True, text=True, timeout=FETCH_S)
    return Path(done.stdout.strip())


class Mirror(http.server.ThreadingHTTPServer):
    """Serves a folder's files, and notes what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        mirror = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                mirror.asked.append(self.path)

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def mirror(request: pytest.FixtureRequest, cached: Path) -> Iterator[Mirror]:
    with Mirror(cached) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetching(url: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url],
        cwd=EXAMPLE,
        env={"HOSPITALS_DATA": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_three_processes_that_need_the_images_at_once_fetch_them_once(mirror: Mirror, tmp_path: Path) -> None:
    processes = [fetching(mirror.url, tmp_path) for _ in range(3)]
    answers = [process.communicate(timeout=FETCH_S) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert len(mirror.asked) == 4
    assert len(list((tmp_path / "fashion-mnist").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("fetching-")] == []


def test_files_with_another_digest_are_refused_and_leave_nothing(cached: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for path in cached.iterdir():
        (wrong / path.name).write_bytes((cached / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with Mirror(wrong) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = fetching(server.url, tmp_path / "data")
        _, errors = process.communicate(timeout=FETCH_S)
        server.shutdown()
    assert process.returncode == 1
    assert "is not the file that it should be" in errors
    assert "by hand" in errors
    assert [path.name for path in (tmp_path / "data").iterdir() if path.name != "fetch.lock"] == []


def test_the_parts_have_no_image_in_common_and_the_documented_skew(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import dataset

    labels = dataset.read_idx(cached, dataset.TRAIN_LABELS)
    parts = {name: dataset.part_indices(labels, name) for name in "ABC"}
    everything = np.concatenate(list(parts.values()))
    assert len(np.unique(everything)) == len(everything)
    for name, indices in parts.items():
        assert tuple(np.bincount(labels[indices], minlength=10)) == dataset.PARTS[name]
    bag = dataset.CLASSES.index("bag")
    assert dataset.PARTS["A"][bag] < 50 < dataset.PARTS["B"][bag]


def test_a_damaged_cache_is_refused_with_what_to_do(cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import dataset

    name = dataset.TEST_LABELS.name
    (tmp_path / name).write_bytes((cached / name).read_bytes()[:-100])
    with pytest.raises(ValueError, match="Delete the folder"):
        dataset.read_idx(tmp_path, dataset.TEST_LABELS)
