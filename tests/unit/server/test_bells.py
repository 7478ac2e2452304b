"""Who waits is woken by topic, and told results that were committed, or sent to read them."""

from __future__ import annotations

from hedgerow.records import Outcome, Reply, TaskResult
from hedgerow.server.bells import MAX_FED, Bells, fed_topic, results_topic

RUN = "run00000001"


def result(cursor: int) -> TaskResult:
    return TaskResult(cursor, f"task{cursor:08d}", "node00000001", 1, "fit", Reply(Outcome.OK))


async def test_results_are_told_in_the_order_of_their_commits() -> None:
    bells = Bells()
    with bells.listen(results_topic(RUN), fed_topic(RUN)) as listener:
        await listener.news()
        bells.committed(RUN, [result(1), result(2)])
        bells.committed(RUN, [result(3)])
        assert await listener.news() == {fed_topic(RUN)}
        assert [one.cursor for one in listener.fed()] == [1, 2, 3]
        assert listener.fed() == []


async def test_results_that_come_together_are_read_from_the_store() -> None:
    bells = Bells()
    with bells.listen(results_topic(RUN), fed_topic(RUN)) as listener:
        await listener.news()
        bells.committed(RUN, None)
        assert await listener.news() == {results_topic(RUN)}
        assert listener.fed() == []


async def test_who_does_not_take_what_it_is_told_reads_it_later() -> None:
    bells = Bells()
    with bells.listen(results_topic(RUN), fed_topic(RUN)) as listener:
        await listener.news()
        for cursor in range(MAX_FED + 1):
            bells.committed(RUN, [result(cursor)])
        assert results_topic(RUN) in await listener.news()
        assert len(listener.fed()) < MAX_FED


async def test_other_runs_are_not_told() -> None:
    bells = Bells()
    with bells.listen(results_topic(RUN), fed_topic(RUN)) as listener:
        await listener.news()
        bells.committed("run00000002", [result(1)])
        assert listener.fed() == []
