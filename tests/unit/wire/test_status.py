from __future__ import annotations

import inspect
import urllib.parse

import grpc
import pytest

from hedgerow import errors
from hedgerow.errors import HedgerowError
from hedgerow.wire.status import CODES, ERROR_KEY, from_status, from_words, to_status, to_words

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, HedgerowError)]
GROUPS = {errors.CallerError, errors.PeerError}


def test_table_has_every_error_that_is_raised_and_nothing_else() -> None:
    assert set(CODES) == set(ALL) - GROUPS


@pytest.mark.parametrize("cls", list(CODES))
def test_error_arrives_as_the_class_that_was_raised_with_its_message(cls: type[HedgerowError]) -> None:
    code, details, trailing = to_status(cls("the run r1 is unknown"))
    assert code is CODES[cls]
    assert code is not grpc.StatusCode.OK
    arrived = from_status(code, details, trailing)
    assert type(arrived) is cls
    assert str(arrived) == "the run r1 is unknown"


@pytest.mark.parametrize("cls", sorted(GROUPS, key=str))
def test_group_travels_as_the_root(cls: type[HedgerowError]) -> None:
    assert type(from_status(*to_status(cls("x")))) is HedgerowError


def test_subclass_travels_as_the_nearest_class_of_the_table() -> None:
    class Special(errors.NotFound):
        """Nothing special."""

    assert to_status(Special("x")) == (grpc.StatusCode.NOT_FOUND, "x", ((ERROR_KEY, "NotFound"),))


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_code_alone_gives_an_error_of_that_code(code: grpc.StatusCode) -> None:
    error = from_status(code, None, None)
    assert isinstance(error, HedgerowError)
    assert code.name in str(error)
    if code in CODES.values():
        assert CODES[type(error)] is code
    else:
        assert type(error) is HedgerowError


def test_unknown_name_in_the_metadata_falls_back_to_the_code() -> None:
    error = from_status(grpc.StatusCode.NOT_FOUND, "gone", [("other", "x"), (ERROR_KEY, "os.system")])
    assert type(error) is errors.NotFound
    assert type(from_status(grpc.StatusCode.UNAVAILABLE, "", ())) is errors.Unavailable


def test_long_message_is_cut_to_what_grpc_takes() -> None:
    code, details, trailing = to_status(errors.NotFound("There is no run " + "é" * 100_000))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.startswith("There is no run é")
    assert len(urllib.parse.quote(details)) + sum(map(len, trailing[0])) < 8 * 1024


@pytest.mark.parametrize("cls", CODES)
def test_error_comes_back_from_its_words(cls: type[HedgerowError]) -> None:
    error = from_words(*to_words(cls("the run r1 is unknown")))
    assert (type(error), str(error)) == (cls, "the run r1 is unknown")


def test_words_that_nobody_knows_are_an_error_all_the_same() -> None:
    error = from_words("os.system", "")
    assert (type(error), str(error)) == (HedgerowError, "The server refused, and did not say why.")
