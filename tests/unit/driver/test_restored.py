"""What a restored server is told again."""

from __future__ import annotations

import gc

import numpy as np

from hedgerow.driver.restored import SETTLE_S, Retold
from hedgerow.records import Blob, Instruction, Parameters, Task


def task(task_id: str, round: int) -> Task:
    return Task(task_id, "run", "node", round, 0, 0, Instruction("fit", {}))


def test_tasks_of_rounds_that_are_not_over_are_told_again_in_their_order() -> None:
    retold = Retold()
    retold.pushed([task("b", 2), task("a", 1)])
    retold.pushed([task("d", 3), task("c", 2), task("b", 2)])
    retold.cancelled(["c", "unknown"])
    assert retold.all() == (-1, [task("b", 2), task("a", 1), task("d", 3)])
    retold.acknowledged(1)
    retold.acknowledged(0)
    assert retold.all() == (1, [task("b", 2), task("d", 3)])


def test_parameters_are_known_by_their_blobs_as_long_as_somebody_has_them() -> None:
    retold, kept, passing = Retold(), Parameters({"w": np.ones(1)}), Parameters({"w": np.ones(1)})
    assert retold.named(kept, Blob("a", 8)) == Blob("a", 8)
    retold.named(passing, Blob("b", 8))
    retold.named(passing, b"inline")
    del passing
    gc.collect()
    assert (retold.source("a"), retold.source("b")) == (kept, None)
    assert retold.moved() == [kept]


def test_a_server_settles_for_a_while_after_its_state_changed() -> None:
    now = [0.0]
    retold = Retold(lambda: now[0])
    assert not retold.settling
    retold.moved()
    assert retold.settling
    now[0] = SETTLE_S
    assert not retold.settling
