"""The whole table of transitions, against a copy of the rules in words."""

from __future__ import annotations

import itertools

import pytest

from hedgerow.errors import InvalidTransition
from hedgerow.records import Outcome
from hedgerow.task_states import FINAL, OPEN, Event, TaskState, after, event_of

LEADS_TO = {
    Event.SENT: TaskState.SENT,
    Event.HANDED_BACK: TaskState.QUEUED,
    Event.DONE: TaskState.DONE,
    Event.FAILED: TaskState.FAILED,
    Event.EXPIRED: TaskState.EXPIRED,
    Event.CANCELLED: TaskState.CANCELLED,
}


def allowed(state: TaskState, event: Event) -> bool:
    """Open tasks take every event, except that what was not sent cannot be handed back."""
    return state in (TaskState.QUEUED, TaskState.SENT) and (state, event) != (TaskState.QUEUED, Event.HANDED_BACK)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TaskState, Event)))
def test_pair_leads_where_the_event_says_or_raises(state: TaskState, event: Event) -> None:
    if allowed(state, event):
        assert after(state, event) is LEADS_TO[event]
    else:
        with pytest.raises(InvalidTransition, match=rf"{state} .*{event}"):
            after(state, event)


def test_open_and_final_share_nothing_and_cover_all() -> None:
    assert set(TaskState) == OPEN | FINAL
    assert not OPEN & FINAL
    assert TaskState.DONE in FINAL


@pytest.mark.parametrize("state", sorted(FINAL))
def test_final_state_stays_final(state: TaskState) -> None:
    for event in Event:
        with pytest.raises(InvalidTransition):
            after(state, event)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_ends_a_task(outcome: Outcome) -> None:
    state = after(TaskState.SENT, event_of(outcome))
    assert state in FINAL
    assert (state is TaskState.DONE) == (outcome is Outcome.OK)
    assert (state is TaskState.EXPIRED) == (outcome is Outcome.EXPIRED)
    assert (state is TaskState.CANCELLED) == (outcome is Outcome.CANCELLED)
