"""How much of what a peer may say in one call; checked before anything is stored."""

from __future__ import annotations

from collections.abc import Sized

from hedgerow.errors import InvalidArgument
from hedgerow.wire.proto import records_pb2

MAX_IDS = 10_000
MAX_REASON_CHARS = 2_000
MAX_BESIDES_PARAMETERS_BYTES = 256 * 1024
MAX_ENTRIES = 4_096
MAX_MANIFEST_BYTES = 8 * 1024 * 1024
MAX_ROUND = 2**31 - 1
MAX_CURSOR = 2**63 - 1
WATCH_MESSAGE_BYTES = 4 * 1024 * 1024  # the goal; one result more may go beyond it, and stays below a message's limit


def check_ids(name: str, ids: Sized) -> None:
    """Refuse a list that is too long.

    Raises:
        InvalidArgument: It has more than :data:`MAX_IDS` entries.
    """
    if len(ids) > MAX_IDS:
        raise InvalidArgument(f"{name} has {len(ids)} entries; at most {MAX_IDS} can be sent in one call.")


def check_reason(reason: str) -> None:
    """Refuse a reason that is no short text.

    Raises:
        InvalidArgument: It has more than :data:`MAX_REASON_CHARS` characters.
    """
    if len(reason) > MAX_REASON_CHARS:
        raise InvalidArgument(f"A reason has at most {MAX_REASON_CHARS} characters, not {len(reason)}.")


def check_round(round: int) -> None:
    """Refuse a round that nobody can have reached.

    Raises:
        InvalidArgument: It is beyond :data:`MAX_ROUND`.
    """
    if round > MAX_ROUND:
        raise InvalidArgument(f"There is no round {round}; the last one is {MAX_ROUND}.")


def check_manifest(round: int, line: str) -> None:
    """Refuse a round's manifest that is not one line of a bounded size.

    Raises:
        InvalidArgument: It has a line break, or more than :data:`MAX_MANIFEST_BYTES`.
    """
    if "\n" in line:
        raise InvalidArgument(f"The manifest of round {round} has more than one line.")
    if len(line.encode()) > MAX_MANIFEST_BYTES:
        raise InvalidArgument(f"The manifest of round {round} has more than {MAX_MANIFEST_BYTES} bytes.")


def check_payload(whole: records_pb2.Instruction | records_pb2.Reply, inline_max_bytes: int) -> None:
    """Refuse parameters inside a message that should have been a blob, and anything else that is too large.

    Raises:
        InvalidArgument: The parameters inside the message have more than ``inline_max_bytes``, there are more than
            :data:`MAX_ENTRIES` entries of config or metrics, or all but the parameters has more than
            :data:`MAX_BESIDES_PARAMETERS_BYTES`.
    """
    entries = len(whole.config if isinstance(whole, records_pb2.Instruction) else whole.metrics)
    if entries > MAX_ENTRIES:
        raise InvalidArgument(f"Config or metrics have {entries} entries; at most {MAX_ENTRIES} can be sent.")
    inline = len(whole.parameters.inline) if whole.HasField("parameters") else 0
    if inline > inline_max_bytes:
        raise InvalidArgument(f"{inline} bytes of parameters are in the message; above {inline_max_bytes} they must be a blob.")
    rest = whole.ByteSize() - inline
    if rest > MAX_BESIDES_PARAMETERS_BYTES:
        raise InvalidArgument(
            f"Config, metrics and texts have {rest} bytes; at most {MAX_BESIDES_PARAMETERS_BYTES} can be sent. "
            "Send larger things as parameters."
        )
