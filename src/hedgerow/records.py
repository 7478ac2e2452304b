"""The values that strategies, clients, drivers and the server exchange. No I/O.

The first half is the public vocabulary (``FitIns``, ``FitRes``, …), named as in Flower; the second half is what the system
itself passes around: tasks, replies, nodes, runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from hedgerow.errors import CorruptData, InvalidArgument

Scalar: TypeAlias = bool | bytes | float | int | str
Config: TypeAlias = dict[str, Scalar]
Metrics: TypeAlias = dict[str, Scalar]
Properties: TypeAlias = dict[str, Scalar]
NDArray: TypeAlias = npt.NDArray[Any]
NDArrays: TypeAlias = list[NDArray]
Layout: TypeAlias = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]
"""Shape and dtype of each tensor by name, in order."""

GRPC_MAX_MESSAGE_LENGTH = 512 * 1024 * 1024
"""The default of an argument that Flower's functions have: no message is that long here, and parameters may be longer."""


class Parameters(Mapping[str, NDArray]):
    """An ordered, immutable mapping from tensor names to arrays of any shape and fixed-width dtype.

    Args:
        tensors: A mapping from names to arrays, or arrays without names, which are then called ``"000000"``, ``"000001"``, ….
            In place of an array there may be bytes: an array in NumPy's npy format, as :func:`ndarray_to_bytes` gives it; any
            other bytes (a tree model, say) become a one-dimensional uint8 array.
        tensor_type: What bytes stand for. Accepted as in Flower, and not needed: the bytes tell.

    The arrays may be views of a memory-mapped file and are then read-only; nothing is copied here. bfloat16 arrays have the
    dtype ``ml_dtypes.bfloat16``.

    >>> p = Parameters([np.zeros((2, 3), np.float32), np.ones(3, np.float32)])
    >>> list(p), p.nbytes
    (['000000', '000001'], 36)
    """

    __slots__ = ("__weakref__", "_tensors")

    tensor_type = "numpy.ndarray"

    def __init__(
        self, tensors: Mapping[str, NDArray | bytes] | Iterable[NDArray | bytes], tensor_type: str = tensor_type
    ) -> None:
        del tensor_type
        items = tensors.items() if isinstance(tensors, Mapping) else ((f"{i:06d}", a) for i, a in enumerate(tensors))
        self._tensors: dict[str, NDArray] = {
            name: _from_bytes(tensor) if isinstance(tensor, bytes | bytearray) else np.asanyarray(tensor)
            for name, tensor in items
        }

    def __getitem__(self, name: str) -> NDArray:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Parameters({len(self)} tensors, {self.nbytes:,} bytes)"

    # Identity, not element-wise comparison: two models are compared with numpy, not with ==.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes, without a file's header."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.layout.values())

    @property
    def layout(self) -> Layout:
        """Names, shapes and dtypes. No value is looked at."""
        return {name: (array.shape, array.dtype) for name, array in self._tensors.items()}

    def arrays(self) -> NDArrays:
        """The arrays in order, not copied."""
        return list(self.values())

    def stored(self, name: str) -> NDArray:
        """A tensor as it lies in memory or in its file, not copied: for whoever reads it block by block.

        Of parameters that travelled in a 16-bit float (:class:`hedgerow.wire.narrow.NarrowParameters`) it has that dtype, and
        not the tensor's own one, which ``[name]`` gives.
        """
        return self._tensors[name]

    def select(self, names: Iterable[str]) -> Parameters:
        """The tensors of these names, in the order of the names; nothing is copied."""
        return Parameters({name: self._tensors[name] for name in names})

    @property
    def tensors(self) -> list[bytes]:
        """The tensors in order as bytes, made anew each time: one-dimensional uint8 as it is, others in npy format.

        Raises:
            InvalidArgument: A dtype (bfloat16, float8) has no npy format.
        """
        return [
            array.tobytes() if array.ndim == 1 and array.dtype == np.uint8 else ndarray_to_bytes(array) for array in self.values()
        ]


def ndarrays_to_parameters(ndarrays: NDArrays) -> Parameters:
    """Copies of the arrays as parameters with names by position. ``Parameters(ndarrays)`` does not copy.

    >>> parameters_to_ndarrays(ndarrays_to_parameters([np.zeros(2), np.ones((1, 2))]))
    [array([0., 0.]), array([[1., 1.]])]
    """
    return Parameters([np.array(array) for array in ndarrays])


def parameters_to_ndarrays(parameters: Parameters) -> NDArrays:
    """Copies of the parameters' arrays in order, which may be changed. ``parameters.arrays()`` does not copy."""
    return [np.array(array) for array in parameters.values()]


def ndarray_to_bytes(ndarray: NDArray) -> bytes:
    """An array in NumPy's npy format, without pickle.

    Raises:
        InvalidArgument: The format does not know its dtype: objects, bfloat16, float8.
    """
    array = np.asanyarray(ndarray)
    if array.dtype.hasobject or array.dtype.kind == "V":
        raise InvalidArgument(f"An array of dtype {array.dtype} has no npy format. Give arrays of numbers, or Parameters.")
    file = BytesIO()
    npy.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def bytes_to_ndarray(tensor: bytes) -> NDArray:
    """The array that bytes in npy format hold; pickled objects are refused.

    >>> bytes_to_ndarray(ndarray_to_bytes(np.arange(3)))
    array([0, 1, 2])

    Raises:
        CorruptData: They hold none, or more than one.
    """
    file = BytesIO(tensor)
    try:
        array: NDArray = npy.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError, TypeError) as error:
        raise CorruptData(f"{len(tensor)} bytes are no array in npy format: {error}") from None
    if file.read(1):
        raise CorruptData(f"{len(tensor)} bytes are an array in npy format and something else behind it.")
    return array


def _from_bytes(tensor: bytes | bytearray) -> NDArray:
    """The array that bytes stand for."""
    if tensor.startswith(npy.MAGIC_PREFIX):
        try:
            return bytes_to_ndarray(bytes(tensor))
        except CorruptData:
            pass  # somebody's own format that begins like it: kept as it is
    return np.frombuffer(bytes(tensor), np.uint8)


class Code(Enum):
    """What a client's status says."""

    OK = 0
    GET_PROPERTIES_NOT_IMPLEMENTED = 1
    GET_PARAMETERS_NOT_IMPLEMENTED = 2
    FIT_NOT_IMPLEMENTED = 3
    EVALUATE_NOT_IMPLEMENTED = 4


@dataclass
class Status:
    """How a client's method ended."""

    code: Code
    message: str


def _ok() -> Status:
    return Status(Code.OK, "Success")


@dataclass
class GetPropertiesIns:
    """Ask a client for its properties."""

    config: Config


@dataclass
class GetPropertiesRes:
    """Properties of a client."""

    status: Status
    properties: Properties


@dataclass
class GetParametersIns:
    """Ask a client for its parameters."""

    config: Config


@dataclass
class GetParametersRes:
    """Parameters of a client."""

    status: Status
    parameters: Parameters


@dataclass
class FitIns:
    """Ask a client to train, starting from the parameters."""

    parameters: Parameters
    config: Config = field(default_factory=dict)


@dataclass
class FitRes:
    """What training gave: parameters, the number of examples that were used (the weight), and metrics."""

    status: Status
    parameters: Parameters
    num_examples: int
    metrics: Metrics = field(default_factory=dict)


@dataclass
class EvaluateIns:
    """Ask a client to evaluate the parameters on its data."""

    parameters: Parameters
    config: Config = field(default_factory=dict)


@dataclass
class EvaluateRes:
    """What evaluation gave: the mean loss over ``num_examples`` examples, and metrics."""

    status: Status
    loss: float
    num_examples: int
    metrics: Metrics = field(default_factory=dict)


# --- what the system itself passes around ---------------------------------------------------------------------------------


class Kind(str, Enum):
    """The kinds of task that the public API knows; a task may have any other short name as its kind."""

    GET_PROPERTIES = "get_properties"
    GET_PARAMETERS = "get_parameters"
    FIT = "fit"
    EVALUATE = "evaluate"

    __str__ = str.__str__


class Outcome(str, Enum):
    """How a task ended. The values are the words that logs, tables and failures show."""

    OK = "ok"
    NOT_IMPLEMENTED = "not_implemented"
    USER_ERROR = "user_error"
    WORKER_DIED = "worker_died"
    INVALID_RESULT = "invalid_result"
    NODE_LOST = "node_lost"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    __str__ = str.__str__


class NodeState(str, Enum):
    """Whether a node can be given work. ``ONLINE`` and ``AWAY`` count as available, ``LEFT`` (on purpose) and ``LOST`` do not."""

    ONLINE = "online"
    AWAY = "away"
    LEFT = "left"
    LOST = "lost"

    __str__ = str.__str__

    @property
    def available(self) -> bool:
        """Whether tasks may be given to a node in this state."""
        return self in (NodeState.ONLINE, NodeState.AWAY)


class RunState(str, Enum):
    """State of a run."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"

    __str__ = str.__str__

    @property
    def final(self) -> bool:
        """Whether the run is over for good."""
        return self in (RunState.FINISHED, RunState.FAILED, RunState.STOPPED)


@dataclass(frozen=True, slots=True)
class Blob:
    """Immutable bytes at the server: BLAKE3-256 digest (64 hexadecimal digits) and length in bytes."""

    digest: str
    size: int


Payload: TypeAlias = bytes | Blob
"""Parameters on their way: safetensors bytes inside a message, or a blob that holds them."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """What a node is to do. ``transport_dtype`` is the 16-bit float in which parameters travel, both ways; "" for none."""

    kind: str
    config: Config = field(default_factory=dict)
    parameters: Payload | None = None
    transport_dtype: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction to one node. ``round`` counts from 1 (0: before the first round), ``seed`` has 64 bits."""

    task_id: str
    run_id: str
    node_id: str
    round: int
    sequence: int
    seed: int
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Origin:
    """What the server itself knows of a task that it gives to a node.

    Attributes:
        driver: Who opened the run: the name in its certificate, or ``driver/<id>`` where the server asks for none.
        sites: To how many different nodes tasks of the same run, round and kind have been given, this one included.
    """

    driver: str = ""
    sites: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a node returned for a task, or the failure that ended it."""

    outcome: Outcome
    message: str = ""
    traceback: str = ""
    num_examples: int = 0
    loss: float = 0.0
    metrics: Metrics = field(default_factory=dict)
    parameters: Payload | None = None
    duration_s: float = 0.0
    worker_deaths: int = 0


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A final task as its driver reads it; ``cursor`` is its position in the run's stream of results."""

    cursor: int
    task_id: str
    node_id: str
    round: int
    kind: str
    reply: Reply


@dataclass(frozen=True, slots=True)
class Node:
    """The server's record of a client.

    ``version`` grows with every change of any node; ``last_seen`` is Unix time; ``transport_dtypes`` are the 16-bit floats in
    which the client can take and give parameters.
    """

    node_id: str
    name: str
    state: NodeState
    version: int
    last_seen: float
    transport_dtypes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Where blobs travel, as the server announces it. Payloads below ``inline_max_bytes`` ride in the message."""

    blob_port: int
    blob_public_url: str = ""
    inline_max_bytes: int = 64 * 1024
