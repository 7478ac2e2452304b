"""Fashion-MNIST in a local cache, and the parts of it that the hospitals hold.

The images are the real ones: 60,000 for training, 10,000 for testing, 28 x 28 grey values, ten classes of clothing. They are by
Zalando SE, under the MIT licence; see DATA-LICENSE.md. They come from Debian's package of them where apt-get is installed, and
from the project's own repository otherwise. What arrives is checked against pinned SHA-256 digests before it is used.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock

log = logging.getLogger(__name__)

CLASSES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {
    # Images of each class, in the order of CLASSES. No image is in two parts.
    "A": (1100, 1100, 1100, 1100, 1100, 110, 1100, 770, 33, 660),
    "B": (275, 440, 275, 440, 275, 1540, 275, 1540, 1540, 1540),
    "C": (600, 600, 600, 600, 600, 600, 600, 600, 600, 600),
}
HELD_OUT = 10  # every tenth image of a part is kept back for the hospital's own evaluation
MEAN, DEVIATION = 0.2860, 0.3530  # of the training images' grey values, scaled to 0..1

DEBIAN_PACKAGE = "dataset-fashion-mnist"
BASE_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
DOWNLOAD_TIMEOUT_S = 60
APT_TIMEOUT_S = 300
LOCK_TIMEOUT_S = 900


@dataclass(frozen=True)
class IdxFile:
    """One file of the data set: its shape, and the SHA-256 of its content after decompression.

    (Debian compresses the files anew, so the digest is that of the content, not of the ``.gz`` file.)
    """

    name: str
    shape: tuple[int, ...]
    digest: str

    @property
    def header(self) -> bytes:
        """What an IDX file of unsigned bytes of this shape starts with."""
        return bytes([0, 0, 8, len(self.shape)]) + b"".join(n.to_bytes(4, "big") for n in self.shape)

    @property
    def size(self) -> int:
        """Bytes after decompression."""
        return len(self.header) + int(np.prod(self.shape))


TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte.gz", (60_000, 28, 28), "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte.gz", (60_000,), "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte.gz", (10_000, 28, 28), "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
)
TEST_LABELS = IdxFile("t10k-labels-idx1-ubyte.gz", (10_000,), "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34")
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class Images:
    """Images as float32 of shape (n, 1, 28, 28), normalised, and their classes as int64 of shape (n,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Part:
    """What one hospital holds: images to train on, and images that it keeps back to evaluate on."""

    train: Images
    held_out: Images


def data_folder() -> Path:
    """Where the cache is: ``$HOSPITALS_DATA``, or ``.data`` beside this file."""
    return Path(os.environ.get("HOSPITALS_DATA") or Path(__file__).parent / ".data") / "fashion-mnist"


@functools.lru_cache(maxsize=4)
def load_part(name: str) -> Part:
    """The part ``"A"``, ``"B"`` or ``"C"``; the same images each time, in every process."""
    folder = fetch()
    labels = read_idx(folder, TRAIN_LABELS)
    chosen = part_indices(labels, name)
    train = np.arange(len(chosen)) % HELD_OUT != 0
    images = read_idx(folder, TRAIN_IMAGES)
    return Part(
        _tensors(images[chosen[train]], labels[chosen[train]]),
        _tensors(images[chosen[~train]], labels[chosen[~train]]),
    )


@functools.lru_cache(maxsize=1)
def load_test() -> Images:
    """The 10,000 test images, which no hospital holds."""
    folder = fetch()
    return _tensors(read_idx(folder, TEST_IMAGES), read_idx(folder, TEST_LABELS))


def part_indices(labels: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.int64]:
    """Which training images belong to a part, in ascending order. The parts are disjoint."""
    if name not in PARTS:
        raise ValueError(f"There is no part {name!r} of the images; there are {', '.join(PARTS)}.")
    before = list(PARTS)[: list(PARTS).index(name)]
    rng = np.random.default_rng(2017)
    chosen = []
    for label in range(len(CLASSES)):
        order = rng.permutation(np.flatnonzero(labels == label))
        start = sum(PARTS[other][label] for other in before)
        chosen.append(order[start : start + PARTS[name][label]])
    return np.sort(np.concatenate(chosen))


def read_idx(folder: Path, file: IdxFile) -> npt.NDArray[np.uint8]:
    """Read one file of the cache.

    Raises:
        ValueError: It is not the file that it should be.
    """
    return np.frombuffer(_content(folder / file.name, file), np.uint8, offset=len(file.header)).reshape(file.shape)


def _content(path: Path, file: IdxFile) -> bytes:
    try:
        with gzip.open(path) as stream:
            content = stream.read(file.size + 1)
    except (OSError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Delete the folder {path.parent}; it will be fetched again."
        ) from error
    if hashlib.sha256(content).hexdigest() != file.digest or not content.startswith(file.header):
        raise ValueError(f"{path} is not the file that it should be. Delete the folder {path.parent}; it will be fetched again.")
    return content


def _tensors(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Images:
    scaled = (images.astype(np.float32) / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    return Images(torch.from_numpy(scaled).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def fetch() -> Path:
    """The folder with the four files; they are fetched if it is not there yet.

    The folder appears whole, under a lock: any number of processes may call this at once.

    Raises:
        RuntimeError: No source gave the files; the message says what each one answered.
    """
    folder = data_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "fetch.lock", timeout=LOCK_TIMEOUT_S):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="fetching-") as temporary:
                complete = Path(temporary) / "complete"
                _fetch_from_any_source(Path(temporary), complete)
                complete.rename(folder)
    return folder


def _fetch_from_any_source(work: Path, complete: Path) -> None:
    refusals = []
    sources: dict[str, Callable[[Path], Path]] = {
        f"Debian's package {DEBIAN_PACKAGE}": _from_debian,
        BASE_URL: _from_web,
    }
    for number, (source, get) in enumerate(sources.items()):
        place = work / str(number)
        place.mkdir()
        log.info("Fetching Fashion-MNIST (31 MB) from %s", source)
        try:
            found = get(place)
            for file in FILES:
                _content(found / file.name, file)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            refusals.append(f"{source}: {_reason(error)}")
            log.warning("No images from %s: %s", source, _reason(error))
        else:
            complete.mkdir()
            for file in FILES:
                shutil.move(found / file.name, complete / file.name)
            log.info("Fashion-MNIST is here, and its digests are right")
            return
    raise RuntimeError(
        "Fashion-MNIST could not be fetched. " + " ".join(refusals) + f" Put the files {', '.join(f.name for f in FILES)} "
        f"into the folder {data_folder()} by hand."
    )


def _reason(error: Exception) -> str:
    output = getattr(error, "stderr", None)
    return f"{error} {output.decode(errors='replace').strip() if isinstance(output, bytes) else ''}".strip()


def _from_debian(place: Path) -> Path:
    """Download and unpack the package, without installing it and without root."""
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise FileNotFoundError("apt-get or dpkg is not installed here.")
    try:
        _run(["apt-get", "download", DEBIAN_PACKAGE], place)
    except subprocess.CalledProcessError:
        # A machine whose package lists are empty: fetch them into a folder of our own.
        own = place / "apt"
        options = []
        for option, sub in (("Dir::State", "state"), ("Dir::State::Lists", "lists"), ("Dir::Cache", "cache")):
            (own / sub / "partial").mkdir(parents=True)
            options += ["-o", f"{option}={own / sub}"]
        _run(["apt-get", *options, "update"], place)
        _run(["apt-get", *options, "download", DEBIAN_PACKAGE], place)
    packages = list(place.glob("*.deb"))
    if len(packages) != 1:
        raise FileNotFoundError(f"apt-get downloaded {len(packages)} packages instead of one.")
    _run(["dpkg", "-x", str(packages[0]), str(place / "unpacked")], place)
    return place / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"


def _run(command: list[str], place: Path) -> None:
    subprocess.run(command, cwd=place, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=APT_TIMEOUT_S)


def _from_web(place: Path) -> Path:
    """Download the files over HTTPS."""
    for file in FILES:
        with (
            urllib.request.urlopen(BASE_URL + file.name, timeout=DOWNLOAD_TIMEOUT_S) as response,
            (place / file.name).open("wb") as target,
        ):
            shutil.copyfileobj(response, target)
    return place


def main() -> None:
    """Fetch the images and show how they are shared out."""
    argparse.ArgumentParser(description="Fetch Fashion-MNIST and show which part of it each hospital holds.").parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = fetch()
    labels = read_idx(folder, TRAIN_LABELS)
    counts = {name: np.bincount(labels[part_indices(labels, name)], minlength=len(CLASSES)) for name in PARTS}
    print(f"{folder}\n{'images of':<12}" + "".join(f"{'part ' + name:>8}" for name in PARTS))
    for label, title in enumerate(CLASSES):
        print(f"{title:<12}" + "".join(f"{counts[name][label]:>8,}" for name in PARTS))
    print(f"{'all':<12}" + "".join(f"{counts[name].sum():>8,}" for name in PARTS))


if __name__ == "__main__":
    main()
