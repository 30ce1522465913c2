"""Batches of asks to a cluster: each goes to the primary of its key's slot.

The client knows which server has which slot; what is sent goes by a connection of
each server that tries nothing twice. A server that says that a key has moved has
not run the script: the client's map is made anew, and the ask is sent again, once.

One server that does not answer is a lost store, for a name is on any of them.
"""

from __future__ import annotations

from typing import Any

from resilient._sharing.courier import NotSentError
from resilient.redis._clients import without_retries
from resilient.redis._transport import Command, RedisTransport, is_error

__all__ = ["ClusterTransport"]


class ClusterTransport(RedisTransport):
    """Sends batches to the servers of a cluster.

    Args:
        client: A synchronous client of a cluster, of redis-py or valkey-py.
        prefix: What the keys begin with.
    """

    def __init__(self, client: Any, prefix: str) -> None:
        super().__init__(client, prefix)
        # By the address, as "127.0.0.1:6379".
        self._nodes: dict[str, RedisTransport] = {}

    def ping(self) -> None:
        self._learn_slots()
        for node in self._client.get_primaries():
            self._transport_to(node).ping()

    def close(self) -> None:
        for transport in self._nodes.values():
            transport.close()

    def _memory(self) -> dict[str, Any]:
        (node, *_) = self._client.get_primaries()
        return self._transport_to(node)._memory()

    def _results(self, commands: list[Command], *, asking: bool = False) -> list[Any]:
        results = self._ask_each(commands)
        moved = [
            place
            for place, result in enumerate(results)
            if is_error(result, "MovedError")
        ]
        if moved:
            self._learn_slots()
            again = self._ask_each([commands[place] for place in moved])
            for place, result in zip(moved, again, strict=True):
                results[place] = result
        for place, result in enumerate(results):
            # NB: a MovedError is an AskError, too.
            if is_error(result, "AskError") and not is_error(result, "MovedError"):
                # The key is to be on another server, which takes what asks so.
                node = self._client.get_node(host=result.host, port=result.port)
                (results[place],) = self._ask(node, [commands[place]], asking=True)
        if all(isinstance(result, NotSentError) for result in results):
            raise results[0]
        return results

    def _ask_each(self, commands: list[Command]) -> list[Any]:
        """Send each command to the server of its key, those of one together."""
        # By its name, for the nodes of valkey-py have no hash.
        by_node: dict[str, tuple[Any, list[int]]] = {}
        for place, (_, key, _) in enumerate(commands):
            node = self._client.get_node_from_key(key)
            by_node.setdefault(node.name, (node, []))[1].append(place)
        results: list[Any] = [None] * len(commands)
        for node, places in by_node.values():
            answers = self._ask(node, [commands[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                results[place] = answer
        return results

    def _ask(
        self, node: Any, commands: list[Command], *, asking: bool = False
    ) -> list[Any]:
        """Return a server's answers; where it has none, the error for each."""
        try:
            return self._transport_to(node)._results(commands, asking=asking)
        except Exception as error:
            return [error] * len(commands)

    def _learn_slots(self) -> None:
        self._client.nodes_manager.initialize()

    def _transport_to(self, node: Any) -> RedisTransport:
        transport = self._nodes.get(node.name)
        if transport is None:
            client = self._client
            connection_to = getattr(client, "get_redis_connection", None)
            # valkey-py has it by its own name.
            connection_to = connection_to or client.get_valkey_connection
            transport = RedisTransport(
                without_retries(connection_to(node)), self._prefix
            )
            self._nodes[node.name] = transport
        return transport
