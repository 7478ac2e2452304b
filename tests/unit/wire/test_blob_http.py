from __future__ import annotations

import json

import pytest

from hedgerow import errors
from hedgerow.errors import ConfigError, HedgerowError
from hedgerow.wire.blob_http import STATUSES, error_from, error_text, status_of
from hedgerow.wire.transfer import TransferLimits


@pytest.mark.parametrize("cls", STATUSES)
def test_error_survives_the_way_through_http(cls: type[HedgerowError]) -> None:
    back = error_from(status_of(cls("what was wrong")), error_text(cls("what was wrong")))
    assert type(back) is cls
    assert str(back) == "what was wrong"


@pytest.mark.parametrize(("status", "cls"), [(403, errors.PermissionDenied), (404, errors.NotFound), (507, errors.LimitReached)])
@pytest.mark.parametrize(
    "text", ["", "<html>nginx</html>", "[]", '{"error": 3}', '{"error": "SystemExit", "message": "x"}', "[" * 60_000]
)
def test_answer_of_a_proxy_is_told_by_its_status(status: int, cls: type[HedgerowError], text: str) -> None:
    assert type(error_from(status, text)) is cls


def test_error_without_a_status_of_its_own_travels_as_its_parent() -> None:
    assert status_of(errors.Fenced("x")) == 500
    assert json.loads(error_text(errors.Fenced("x")))["error"] == "HedgerowError"


def test_error_of_any_text_fits_into_a_header() -> None:
    text = error_text(errors.NotFound("no\r\nSet-Cookie: é " + "x" * 10_000))
    assert text.isascii()
    assert "\n" not in text
    assert "\r" not in text
    assert len(text) < 8000


@pytest.mark.parametrize("seconds", [0, -1])
def test_limits_of_nothing_are_refused(seconds: float) -> None:
    with pytest.raises(ConfigError):
        TransferLimits(transfer_stalled_s=seconds)
