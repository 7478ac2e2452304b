"""The states of a task and the events that move it: data, no I/O, no clock, no lock.

::

    queued ──SENT──> sent ──DONE────> done
       │  ^            │ ───FAILED──> failed
       │  └─HANDED_BACK┘ ───EXPIRED─> expired
       └────────────────── CANCELLED> cancelled

``done``, ``failed``, ``expired`` and ``cancelled`` are final: no event leaves them. A pair that is not in the table raises
:class:`~hedgerow.errors.InvalidTransition`. Only the store calls :func:`after`; nobody restates the table.
"""

from __future__ import annotations

from enum import Enum

from hedgerow.errors import InvalidTransition
from hedgerow.records import Outcome


class TaskState(str, Enum):
    """Where a task is in its life."""

    QUEUED = "queued"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    __str__ = str.__str__


class Event(str, Enum):
    """What happened to a task."""

    SENT = "sent"
    HANDED_BACK = "handed_back"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"

    __str__ = str.__str__


OPEN = frozenset({TaskState.QUEUED, TaskState.SENT})
FINAL = frozenset(TaskState) - OPEN

_TABLE: dict[tuple[TaskState, Event], TaskState] = {
    (TaskState.QUEUED, Event.SENT): TaskState.SENT,
    # A result may come for a task that was handed back and not sent again: the client had finished it after all.
    (TaskState.QUEUED, Event.DONE): TaskState.DONE,
    (TaskState.QUEUED, Event.FAILED): TaskState.FAILED,
    (TaskState.QUEUED, Event.EXPIRED): TaskState.EXPIRED,
    (TaskState.QUEUED, Event.CANCELLED): TaskState.CANCELLED,
    # Sending again after a new session: the node did not have it in hand.
    (TaskState.SENT, Event.SENT): TaskState.SENT,
    (TaskState.SENT, Event.HANDED_BACK): TaskState.QUEUED,
    (TaskState.SENT, Event.DONE): TaskState.DONE,
    (TaskState.SENT, Event.FAILED): TaskState.FAILED,
    (TaskState.SENT, Event.EXPIRED): TaskState.EXPIRED,
    (TaskState.SENT, Event.CANCELLED): TaskState.CANCELLED,
}


def after(state: TaskState, event: Event) -> TaskState:
    """The state that ``event`` leads to.

    Raises:
        InvalidTransition: The event cannot happen in this state.

    >>> after(TaskState.QUEUED, Event.SENT).value
    'sent'
    """
    try:
        return _TABLE[state, event]
    except KeyError:
        raise InvalidTransition(f"A task that is {state} cannot become {event}.") from None


def event_of(outcome: Outcome) -> Event:
    """The event that a reply with this outcome is."""
    match outcome:
        case Outcome.OK:
            return Event.DONE
        case Outcome.EXPIRED:
            return Event.EXPIRED
        case Outcome.CANCELLED:
            return Event.CANCELLED
        case _:
            return Event.FAILED
