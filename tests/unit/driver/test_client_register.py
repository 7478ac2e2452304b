"""The client manager is kept in step with the nodes that the server tells of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hedgerow.driver import SimpleClientManager
from hedgerow.driver.exchange import DriverExchange
from hedgerow.driver.start import ClientRegister
from hedgerow.driver.watcher import Mirror
from hedgerow.errors import RunEnded
from hedgerow.records import Node, NodeState


def node(node_id: str, name: str, version: int, state: NodeState = NodeState.ONLINE) -> Node:
    return Node(node_id, name, state, version, 0.0)


def followed(mirror: Mirror) -> SimpleClientManager:
    manager = SimpleClientManager()
    driver: Any = SimpleNamespace(mirror=mirror, subscribe=mirror.subscribe)
    ClientRegister(driver, cast(DriverExchange, None), manager).follow()
    return manager


def test_nodes_come_and_go() -> None:
    mirror = Mirror()
    manager = followed(mirror)
    mirror.add_nodes([node("1", "b", 1), node("2", "a", 2)], complete=True)
    assert list(manager.clients) == ["a", "b"]
    mirror.add_nodes([node("1", "b", 3, NodeState.AWAY), node("2", "a", 4, NodeState.LOST)], complete=True)
    assert list(manager.clients) == ["b"]


def test_a_name_passes_to_another_node_in_whatever_order_the_changes_are_told() -> None:
    mirror = Mirror()
    manager = followed(mirror)
    mirror.add_nodes([node("old", "site", 1)], complete=True)
    mirror.add_nodes([node("new", "site", 2)], complete=True)
    assert vars(manager.clients["site"])["node_id"] == "old"
    mirror.add_nodes([node("old", "site~old", 3, NodeState.LOST)], complete=True)
    assert vars(manager.clients["site"])["node_id"] == "new"


def test_node_that_a_server_with_another_state_does_not_know_goes() -> None:
    mirror = Mirror()
    manager = followed(mirror)
    mirror.add_nodes([node("1", "a", 1), node("2", "b", 2)], complete=True)
    mirror.renew()
    mirror.add_nodes([node("2", "b", 1)], complete=True)
    assert list(manager.clients) == ["b"]


def test_changes_after_the_end_are_left_alone() -> None:
    mirror = Mirror()
    manager = followed(mirror)
    mirror.abort(RunEnded("over"))
    mirror.add_nodes([node("1", "a", 1)], complete=True)
    assert len(manager) == 0
