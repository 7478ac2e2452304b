"""Krum, Multi-Krum and Bulyan against their papers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgument
from hedgerow.records import Parameters
from hedgerow.strategy import Bulyan, Krum, MultiKrum
from tests.unit import papers
from tests.unit.driver.fakes import FakeClient, fitted
from tests.unit.strategy.rounds import model, one_round, problems, vector


def pairs(problem: Any) -> tuple[Parameters, list[tuple[Parameters, int]]]:
    sent, returned, examples = problem
    return model(sent), [(model(v), n) for v, n in zip(returned, examples, strict=True)]


@given(problems(3, 11), st.integers(0, 4))
def test_krum_gives_the_papers_update_itself(problem: Any, f: int) -> None:
    sent, updates = pairs(problem)
    found = one_round(Krum(num_malicious_clients=f), sent, updates)
    if f and len(updates) < 2 * f + 3:
        assert found is None
    else:
        assert found is not None
        np.testing.assert_array_equal(vector(found), problem[1][papers.krum(problem[1], f)])
        assert any(found is update for update, _ in updates)


@given(problems(3, 11), st.integers(1, 12))
def test_multi_krum_is_the_papers(problem: Any, m: int) -> None:
    sent, updates = pairs(problem)
    expected = papers.multi_krum(problem[1], 0, min(m, len(updates)))
    for strategy in (MultiKrum(num_clients_to_keep=m), Krum(num_clients_to_keep=m)):
        np.testing.assert_allclose(vector(one_round(strategy, sent, updates)), expected, rtol=1e-12, atol=1e-12)


@given(problems(7, 11))
def test_multi_krum_keeps_as_many_as_it_may_trust(problem: Any) -> None:
    sent, updates = pairs(problem)
    expected = papers.multi_krum(problem[1], 2, len(updates) - 4)
    np.testing.assert_allclose(
        vector(one_round(MultiKrum(num_malicious_clients=2), sent, updates)), expected, rtol=1e-12, atol=1e-12
    )


@given(problems(7, 12), st.sampled_from([0, 1, 2]))
def test_bulyan_is_the_papers(problem: Any, f: int) -> None:
    sent, updates = pairs(problem)
    found = one_round(Bulyan(num_malicious_clients=f), sent, updates)
    if f and len(updates) < 4 * f + 3:
        assert found is None
    else:
        np.testing.assert_allclose(vector(found), papers.bulyan(problem[1], f), rtol=1e-12, atol=1e-12)


# Not Bulyan: where Krum looks at one neighbour only, two that are each other's nearest have the same score.
# The first one is taken then.
@given(problems(7, 11), st.data())
def test_order_of_the_clients_changes_nothing(problem: Any, data: st.DataObject) -> None:
    sent, updates = pairs(problem)
    permuted = data.draw(st.permutations(updates))
    for strategy in (Krum(num_malicious_clients=1), MultiKrum(num_malicious_clients=1)):
        found = [vector(one_round(strategy, sent, u)) for u in (updates, permuted)]
        np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2])
def test_where_nobody_is_malicious_one_client_is_enough(count: int) -> None:
    sent, updates = model(np.zeros(6)), [(model(np.ones(6)), 1)] * count
    for strategy in (Krum(), MultiKrum(), Bulyan()):
        assert vector(one_round(strategy, sent, updates)).tolist() == [1.0] * 6


def test_too_few_updates_change_nothing_and_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    sent, updates = model(np.zeros(6)), [(model(np.ones(6)), 1)] * 6
    for strategy in (Krum(num_malicious_clients=2), Bulyan(num_malicious_clients=1)):
        assert one_round(strategy, sent, updates) is None
    assert caplog.text.count("6 updates are too few") == 2


def test_distances_need_what_was_sent() -> None:
    with pytest.raises(InvalidArgument, match="configure_fit"):
        Krum().aggregate_fit(1, [(FakeClient("a"), fitted(1.0))], [])


def test_impossible_numbers_are_refused() -> None:
    for make in (
        lambda: Krum(num_malicious_clients=-1),
        lambda: Krum(num_clients_to_keep=-1),
        lambda: Bulyan(num_malicious_clients=-1),
        lambda: Bulyan(to_keep=2),
    ):
        with pytest.raises(InvalidArgument, match="num_malicious_clients"):
            make()
