"""A parser of foreign bytes, how its cases are made, and what must hold for each of them."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.mutation import Choices

A_BATCH = 5_000
"""Cases of one hypothesis run: it remembers what it tried."""
CHOICE_BYTES = 56
CASES_IN_CI = 150


@dataclasses.dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        name: As the table of ``make fuzz`` shows it.
        modules: The modules whose branches are counted.
        make: A case from choices.
        open: Given an empty folder, a context in which the returned function checks one case. It raises when something does not
            hold, or when the parser raises what it must not.
    """

    name: str
    modules: tuple[str, ...]
    make: Callable[[Choices], Any]
    open: Callable[[Path], AbstractContextManager[Callable[[Any], None]]]


@dataclasses.dataclass
class Tally:
    """What came of a number of cases."""

    cases: int = 0
    slowest_s: float = 0.0
    findings: list[BaseException] = dataclasses.field(default_factory=list)


def try_parser(
    parser: Parser, folder: Path, cases: int, first_seed: int, around: Callable[[], AbstractContextManager[None]] | None = None
) -> Tally:
    """Try so many cases, or fewer where something is found; ``around`` is entered for each case."""
    tally = Tally()
    with parser.open(folder) as check:

        def one(data: bytes) -> None:
            case = parser.make(Choices(data))
            tally.cases += 1
            started = time.perf_counter()
            try:
                with around() if around is not None else contextlib.nullcontext():
                    check(case)
            except Exception as error:
                error.add_note(f"The case of {parser.name}: {case!r:.4000}")
                raise
            finally:
                tally.slowest_s = max(tally.slowest_s, time.perf_counter() - started)

        number = first_seed
        while tally.cases < cases and not tally.findings:
            options = settings(
                max_examples=min(A_BATCH, cases - tally.cases),
                database=None,
                deadline=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            )
            try:
                seed(number)(options(given(st.binary(min_size=CHOICE_BYTES, max_size=CHOICE_BYTES))(one)))()
            except Exception as error:  # noqa: BLE001 (reported)
                tally.findings.append(error)
            number += 1
    return tally
