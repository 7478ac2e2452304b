"""The driver's own files of large parameters: what a fold gives is written once, and that file is then sent and kept.

Owned here: the folder, which file holds which parameters, and that a file goes when its parameters are not used any longer. A
file is written under a fresh name and never changed; whoever wants to keep it links to it. Small parameters stay in memory.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from hedgerow.aggregation.blocks import MEMORY
from hedgerow.copies import copied
from hedgerow.records import Layout, NDArray, Parameters
from hedgerow.wire import tensors
from hedgerow.wire.narrow import NarrowParameters, narrowed

MIN_BYTES = 1024 * 1024
"""Parameters below this are not worth a file of their own."""
PREFIX = ".parameters-"


class ParameterFiles:
    """Files of parameters, in a fresh folder that is made when the first one is needed.

    Args:
        where: The folder in which that folder is made; None for the system's place for temporary files.
    """

    def __init__(self, where: Path | None = None) -> None:
        self._where = where
        self._folder: Path | None = None
        self._numbers = itertools.count()
        self._paths: weakref.WeakKeyDictionary[Parameters, Path] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def put(self, layout: Layout, values: Iterable[NDArray]) -> Parameters:
        """Write tensors that come block by block: see :class:`hedgerow.aggregation.blocks.Room`.

        Raises:
            InvalidArgument: A tensor cannot be stored, or the blocks do not fill the tensors.
            OSError: The disk is full.
        """
        if sum(math.prod(shape) * dtype.itemsize for shape, dtype in layout.values()) < MIN_BYTES:
            return MEMORY.put(layout, values)
        return self._written(lambda file: tensors.write_blocks(layout, values, file))

    def filed(self, parameters: Parameters) -> Parameters:
        """The same parameters as views of a file of their own, where they are large and have none yet.

        Raises:
            InvalidArgument: A tensor cannot be stored.
            OSError: The disk is full.
        """
        if parameters.nbytes < MIN_BYTES or self.path(parameters) is not None:
            return parameters
        return self._written(lambda file: tensors.write(parameters, file))

    def as_sent(self, parameters: Parameters, transport_dtype: str) -> Parameters:
        """The parameters as a client gets them that is sent them in this 16-bit float ("": in their own dtypes).

        They are the same ones where they lie as they are sent, else new ones; large ones in a file.

        Raises:
            InvalidArgument: A tensor cannot be stored, or has a value that is too large for the 16-bit float.
            OSError: The disk is full.
        """
        travels = narrowed(parameters.layout, transport_dtype)
        if all(parameters.stored(name).dtype == dtype for name, (_, dtype) in travels.items()):
            return parameters
        if parameters.nbytes < MIN_BYTES:
            return tensors.view(tensors.dumps(parameters, transport_dtype))
        return self._written(lambda file: tensors.write(parameters, file, transport_dtype))

    def adopt(self, parameters: Parameters, path: Path) -> None:
        """These parameters lie in a file that others may remove: keep it under a name of our own, if that is possible."""
        own = self._new_path()
        with suppress(OSError):
            os.link(path, own)
            self._own(parameters, own)

    def path(self, parameters: Parameters) -> Path | None:
        """The file that holds exactly these parameters, in their own dtypes; it is there for as long as they are used."""
        with self._lock:
            return self._paths.get(parameters)

    def close(self) -> None:
        """Remove the folder. What is mapped stays readable."""
        with self._lock:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _written(self, write: Callable[[BinaryIO], int]) -> Parameters:
        """What was written into a fresh file; nothing stays of one that could not be written."""
        path = self._new_path()
        try:
            with path.open("xb", buffering=0) as file:
                copied("parameters to a file", write(file))
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        parameters = tensors.map_file(path)
        self._own(parameters, path)
        return parameters

    def _own(self, parameters: Parameters, path: Path) -> None:
        with self._lock:
            if not isinstance(parameters, NarrowParameters):  # their file holds other bytes than they are kept and sent as
                self._paths[parameters] = path
        weakref.finalize(parameters, path.unlink, missing_ok=True).atexit = False

    def _new_path(self) -> Path:
        with self._lock:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._where))
            return self._folder / f"{next(self._numbers):06d}.safetensors"
