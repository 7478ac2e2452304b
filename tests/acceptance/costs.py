"""What a round costs in calls, commits, copies and memory: counted, not timed, so that a slow machine changes nothing.

The expected numbers are here, and nowhere else. Lower them when a change makes a round cheaper; whoever raises one says why in
the commit.
"""

from __future__ import annotations

from collections.abc import Mapping

CLIENTS = 2
SMALL, LARGE = 10_000, 4_000_000
"""Elements of the model's one tensor, float32: one of 40 kB that rides in messages, and one of 16 MB that travels as a blob."""

EXPECTED: dict[str, dict[str, float]] = {
    "small model": {
        "calls: Driver PushTasks": 1,
        "calls: Driver AcknowledgeRound": 0.5,  # one for all rounds of a tenth of a second
        "store: changes": 4,
        "store: commits": 4,
        "copies: parameters to a message (driver)": 1,
        "copies: parameters of a message to the worker (worker)": 2,
        "copies: parameters to a message (worker)": 2,
        "copies: result to the outbox (link)": 2,
        "copies: parameters to a checkpoint (driver)": 1,
    },
    "large model": {
        "calls: Driver StartUpload": 1,
        "calls: Driver PushTasks": 1,
        "calls: Fleet ResolveBlob": 2,
        "calls: Fleet StartUpload": 2,
        "calls: Driver ResolveBlob": 2,
        "calls: Driver AcknowledgeRound": 1,
        "store: changes": 10,
        "store: commits": 10,
        "copies: parameters to a file (driver)": 1,
        "copies: blob sent (driver)": 1,
        "copies: blob received (link)": 2,
        "copies: parameters to a file (worker)": 2,
        "copies: blob sent (link)": 2,
        "copies: blob received (driver)": 2,
        "memory: MB more of the driver": 6,  # the fold goes block by block from files into a file; a model more would be 16
        "memory: MB more of the server": 6,  # a model more would be 16
    },
}
"""In a round of two clients with the driver's checkpoint on. What is not named must not happen.

Calls are those that begin at the server; store is what its writer does. Copies are in models, added over all processes of a kind:
1 is as many bytes as the model has. Memory is the peak of a process's anonymous memory beyond what it had before the first round.
"""
SLACK = {"calls": 0.5, "store": 0.5, "copies": 0.05, "memory": 8.0}
"""How much more than expected says nothing: what happens now and then, headers of tensors, buffers of a fixed size."""


def grown(job: str, found: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """A sentence for each number that has grown.

    >>> grown("small model", {"calls: Driver PushTasks": 2.0}, {"calls: Driver PushTasks": 1})
    ['small model: "calls: Driver PushTasks" is 2 a round; 1 is expected (1 more). See EXPECTED in tests/acceptance/costs.py.']
    >>> grown("small model", {"calls: Driver PushTasks": 1.2}, {"calls: Driver PushTasks": 1})
    []
    """
    sentences = []
    for name, value in sorted(found.items()):
        allowed = expected.get(name, 0)
        if value > allowed + _slack(name):
            numbers = f"{value:.4g} a round; {allowed:g} is expected ({value - allowed:.3g} more)"
            sentences.append(f'{job}: "{name}" is {numbers}. See EXPECTED in tests/acceptance/costs.py.')
    return sentences


def shrunk(found: Mapping[str, float], expected: Mapping[str, float]) -> list[str]:
    """The numbers that could be lowered; not that of commits, for changes that come at the same time share one.

    >>> shrunk({"store: changes": 3.0, "store: commits": 2.0}, {"store: changes": 4, "store: commits": 4})
    ['store: changes']
    """
    return [name for name, value in expected.items() if found.get(name, 0) < value - _slack(name) and name != "store: commits"]


def _slack(name: str) -> float:
    return SLACK[name.partition(":")[0]]
