"""What an earlier process of the same run has sent in the round that is not over, as instructions again.

Owned here: noting each batch in the run's journal before it is sent, and who was left out of the fold when it was closed; making
the same instructions from that. Without a journal nothing is noted, and nothing was sent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import blake3

from hedgerow.driver.answers import reason_of
from hedgerow.driver.driver import Driver
from hedgerow.driver.journal import Asked, Batch, Journal, SentIns, Unfolded
from hedgerow.driver.results import Failed, Measure
from hedgerow.errors import ConfigError
from hedgerow.records import Blob, Config, EvaluateIns, FitIns, Instruction, Kind, Node, NodeState, Parameters, Payload
from hedgerow.strategy.clients import ClientManager
from hedgerow.wire import tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Again:
    """A batch that was sent before: ``instructions[i]`` goes to each node of ``nodes`` that is paired with ``i``.

    ``closed`` says who was left out of the fold; None where it had not come that far.
    """

    nodes: list[tuple[Node, int]]
    instructions: list[tuple[Parameters, Config]]
    not_asked: list[str]
    closed: list[Unfolded] | None


class SentBatches:
    """The batches of one run.

    Args:
        driver: The run.
        journal: Where they are noted; None where the run has no folder.
        manager: Who is available, and how many choices were made among them.
    """

    def __init__(self, driver: Driver, journal: Journal | None, manager: ClientManager | None) -> None:
        self._driver = driver
        self._journal = journal
        self._manager = manager
        self._current: Parameters | None = None

    def recall(self, round: int, kind: Kind, parameters: Parameters) -> Again | None:
        """What this phase of the round has sent already, or None.

        Args:
            round: The round.
            kind: The phase.
            parameters: The run's own parameters now.

        Raises:
            CorruptData: The journal is damaged.
            ConfigError: These are not the parameters that were sent.
        """
        self._current = parameters
        if self._journal is None:
            return None
        batch = self._journal.read(round, kind)
        if batch is None:
            # Clients evaluate after the training: nobody had been selected for that, and nobody is now that others may be here.
            nobody = kind is Kind.FIT and (round, str(Kind.EVALUATE)) in self._journal.names()
            return Again([], [], [], None) if nobody else None
        log.info("%s_round %s: taking up what %s clients were asked before", kind, round, len(batch.asked))
        self._driver.continue_round(round, batch.sequences)
        if self._manager is not None:
            self._manager.load_state_dict(batch.manager)
        nodes = [(Node(one.node_id, one.name, NodeState.AWAY, 0, 0.0), one.ins) for one in batch.asked]
        instructions = [(self._parameters(batch, ins), ins.config) for ins in batch.instructions]
        return Again(nodes, instructions, list(batch.not_asked), self._journal.closed(round, kind))

    def note(
        self,
        round: int,
        kind: Kind,
        instructions: Sequence[tuple[Node, FitIns | EvaluateIns, Instruction]],
        sequences: Sequence[tuple[str, str, int]],
    ) -> list[str]:
        """Note a batch that is about to be sent; returns the names of those who are available and not asked."""
        names = {node.name for node, _, _ in instructions}
        not_asked = [] if self._manager is None else [name for name in self._manager.all() if name not in names]
        if self._journal is None:
            return not_asked
        places: dict[tuple[int, str], int] = {}
        sent: list[SentIns] = []
        asked = []
        for node, ins, said in instructions:
            place = id(ins), said.transport_dtype
            if place not in places:
                assert said.parameters is not None, "fit and evaluate carry parameters"
                places[place] = len(sent)
                sent.append(SentIns(ins.config, said.parameters, ins.parameters is self._current, said.transport_dtype))
            asked.append(Asked(node.node_id, node.name, places[place]))
        manager = {} if self._manager is None else self._manager.state_dict()
        self._journal.write(Batch(round, kind, asked, sent, not_asked, sequences, manager))
        return not_asked

    def payloads(self) -> list[Payload]:
        """What the instructions name that are noted: an earlier process of the run may have sent them in the round to come."""
        return [] if self._journal is None else self._journal.payloads()

    def close(self, round: int, kind: str, failed: Mapping[int, Failed], measures: Mapping[int, Measure]) -> None:
        """Note who is left out of the fold of a phase that has all answers that it will have."""
        if self._journal is None:
            return
        unfolded = []
        for index, one in failed.items():
            measure = measures.get(index)
            took = (None, None) if measure is None else (measure.bytes, measure.seconds)
            unfolded.append(Unfolded(index, reason_of(one.error), str(one.error), *took))
        self._journal.close(round, kind, unfolded)

    def _parameters(self, batch: Batch, ins: SentIns) -> Parameters:
        """The instruction's parameters; the driver knows how they are called at the server."""
        if not ins.current:
            return self._driver.download(ins.payload)
        assert self._current is not None
        if not are_those_of(ins, self._current):
            raise ConfigError(
                f"{batch.kind}_round {batch.round}: the parameters are not those that were sent before the driver was restarted. "
                "Resume the run with the code and the arguments that it was started with. If the strategy folds the same results "
                "into other parameters each time (its random numbers do not follow from the round), or the server has lost a "
                "result that was folded, the run cannot go on from here: stop it and start another one."
            )
        self._driver.adopt(self._current, ins.payload, ins.transport_dtype)
        return self._current


def are_those_of(sent: SentIns, parameters: Parameters) -> bool:
    """Whether these are the parameters that were sent, bit for bit; where they travelled in a 16-bit float, rounded to it."""
    if not isinstance(sent.payload, Blob):
        return tensors.dumps(parameters, sent.transport_dtype) == sent.payload
    hasher = blake3.blake3()
    for chunk in tensors.chunks(parameters, sent.transport_dtype):
        hasher.update(chunk)
    return hasher.hexdigest() == sent.payload.digest
