"""How a session begins that the server refuses."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from hedgerow.client.session import GREETINGS, Session, Standing
from hedgerow.errors import HedgerowError, PermissionDenied
from hedgerow.security import Identity, Role
from hedgerow.wire.status import to_status

FORGOTTEN = (grpc.StatusCode.INTERNAL, "Internal error from Core", ())


class Refusing:
    """A stub whose calls end like this, one after the other, before hello could be said."""

    def __init__(self, *ends: tuple[grpc.StatusCode, str, tuple[tuple[str, str], ...]]) -> None:
        self.ends = list(ends)

    def Session(self, metadata: object) -> Refusing:  # noqa: N802 (named by the protocol)
        return self

    async def write(self, message: object) -> None:
        code, details, trailing = self.ends.pop(0)
        raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details)


async def refusal(stub: Any) -> HedgerowError:
    with pytest.raises(HedgerowError) as refused:
        await Session.open(stub, Identity.fresh(Role.CLIENT), Standing("a", "test", [], []))
    return refused.value


async def test_a_refusal_that_grpc_forgot_is_asked_for_again() -> None:
    stub = Refusing(FORGOTTEN, to_status(PermissionDenied("This API is for others.")))
    error = await refusal(stub)
    assert (type(error), str(error), stub.ends) == (PermissionDenied, "This API is for others.", [])


async def test_nobody_is_asked_for_ever_and_what_the_server_says_itself_holds() -> None:
    stub = Refusing(*[FORGOTTEN] * (GREETINGS + 1))
    assert str(await refusal(stub)) == "Internal error from Core"
    assert len(stub.ends) == 1
    failing = Refusing(to_status(HedgerowError("The server failed.")), FORGOTTEN)
    assert str(await refusal(failing)) == "The server failed."
    assert len(failing.ends) == 1
