"""What a client knows beside its instruction: the node's name, the run, and the state that the run keeps at this site.

The state lives in one file for each run. A task that ends well replaces it together with its result; a task that fails, or whose
worker dies, changes nothing, so that doing it again starts from the same state. The file is written and read by this module alone
and holds no pickle: scalars as protobuf entries, arrays in safetensors format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from hedgerow.errors import CorruptData, InvalidArgument
from hedgerow.records import NDArray, Parameters, Scalar
from hedgerow.wire import tensors
from hedgerow.wire.convert import entries_from_proto, entries_to_proto
from hedgerow.wire.proto import worker_pb2

State: TypeAlias = dict[str, Scalar | NDArray]

_MAGIC = b"hedgerow-state-1"


@dataclass
class Context:
    """What belongs to the run that a task is part of.

    Attributes:
        node_name: Name of this node.
        run_id: Id of the run.
        state: Kept for the run, also over restarts of the client. Values are bool, bytes, float, int, str or numpy arrays.
            ``get_properties`` may read it; what it changes there is not kept, since it may run while the client trains.
    """

    node_name: str
    run_id: str
    state: State = field(default_factory=dict)


def load_state(path: Path) -> State:
    """Read a state file; no file is an empty state. Arrays are writable copies.

    Raises:
        CorruptData: The file is not what :func:`save_state` writes.
    """
    if not path.exists():
        return {}
    try:
        return _parse(path.read_bytes())
    except (ValueError, KeyError, DecodeError, CorruptData, IsADirectoryError) as error:
        raise CorruptData(
            f"{path} is no state of a run ({type(error).__name__}: {str(error)[:200]}). Remove it to start with an empty state."
        ) from None


def _parse(data: bytes) -> State:
    start = len(_MAGIC) + 8
    size = int.from_bytes(data[len(_MAGIC) : start], "little")
    if not data.startswith(_MAGIC) or len(data) < start + size:
        raise ValueError("it does not begin as one")
    message = worker_pb2.KeptState.FromString(data[start : start + size])
    arrays = {name: np.array(array) for name, array in tensors.view(data[start + size :]).items()}
    scalars = entries_from_proto(message.scalars)
    return {name: arrays[name] if name in arrays else scalars[name] for name in message.keys}


def save_state(state: State, path: Path) -> None:
    """Write a state to a file that does not exist yet, whole or not at all.

    Raises:
        InvalidArgument: A key or value cannot be kept; the message names it.
        OSError: The disk is full or broken.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise InvalidArgument(f"context.state has the key {name!r} of type {type(name).__name__}; keys are str.")
        if not isinstance(value, bool | bytes | float | int | str | np.ndarray | np.generic):
            raise InvalidArgument(
                f"context.state[{name!r}] is a {type(value).__name__}; bool, bytes, float, int, str and numpy arrays can be kept."
            )
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    scalars = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    head = worker_pb2.KeptState(scalars=entries_to_proto(scalars), keys=list(state)).SerializeToString()
    try:
        with path.open("xb") as file:
            file.write(_MAGIC + len(head).to_bytes(8, "little") + head)
            tensors.write(Parameters(arrays), file)
    except (InvalidArgument, OSError):
        path.unlink(missing_ok=True)
        raise
