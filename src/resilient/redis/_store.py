"""RedisStore: a store on a Redis or Valkey server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from resilient._machines.lease import Lost
from resilient._sharing.courier import Courier
from resilient._sharing.store import SharedStore
from resilient.redis._clients import client_for, is_cluster, without_retries
from resilient.redis._cluster import ClusterTransport
from resilient.redis._transport import RedisTransport

if TYPE_CHECKING:
    from datetime import timedelta
    from typing import Self

__all__ = ["RedisStore"]

_PREFIX: Final = re.compile(r"[\w.:-]{1,64}", re.ASCII)


class RedisStore(SharedStore):
    """State that processes share, on a Redis (5 or later) or Valkey server.

    Nothing is sent before a policy is used, and a server that cannot be reached
    is no error: the policies do without it and use it when it answers. One
    daemon thread a process and store does the talking; it begins with the
    first call and ends with `close`. What another thread, task or event loop
    of the process was granted is shared by all of them.

    Give it a database or a server that evicts nothing (``maxmemory-policy
    noeviction``): a key that is evicted is a limit that begins anew.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user, password and
            database as redis-py has them.
        client: A synchronous client of redis-py or valkey-py instead: of a server,
            of a cluster, or of Sentinel's ``master_for(…)``. It is not closed, and
            a copy of it that tries nothing twice is used.
        prefix: What the names of all keys begin with.
        patience: Seconds that a call waits for an answer at most. The 99th
            percentile of a healthy server next door is below 10 ms.
        lease: Seconds that a block is good for; None: what suits each limit,
            a second or a tenth of its burst.
        members: How many processes there are assumed to be until they have been
            counted for a minute: with too many the share without the store is
            too small for so long, with too few too large.
        lost: What a policy does without the store: "share" the limit among
            members, "reject" every call, use the whole limit "alone", or let all
            "pass".
        plain_keys: Name the keys of a `PerKey` on the server as Python writes them
            in ASCII, ``'ann'`` or ``('acme', 7)``, and not by a hash. All processes
            have to agree on it: else they share nothing.

    Raises:
        TypeError, ValueError: An argument is out of range, or the URL is none.
    """

    __slots__ = ()

    def __init__(
        self,
        url: str | None = None,
        *,
        client: Any = None,
        prefix: str = "resilient",
        patience: float | timedelta = 0.05,
        lease: float | timedelta | None = None,
        members: int = 16,
        lost: Lost = "share",
        plain_keys: bool = False,
    ) -> None:
        if (url is None) == (client is None):
            raise TypeError("RedisStore takes exactly one of `url` and `client`")
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ValueError(
                "`prefix` must be 1 to 64 letters, digits, '_', '.', ':' or '-', got"
                f" {prefix!r}"
            )
        if url is not None:
            client = client_for(url)
        transport = (
            ClusterTransport(client, prefix)
            if is_cluster(client)
            else RedisTransport(without_retries(client), prefix)
        )
        courier = Courier(transport, 0.05)
        super().__init__(
            courier,
            patience=patience,
            lease=lease,
            members=members,
            lost=lost,
            plain_keys=plain_keys,
        )
        courier.patience = self.patience
        courier.salt = prefix.encode()

    def __repr__(self) -> str:
        # NB: neither the URL nor the client: there may be a password in it.
        return "RedisStore(…)"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a RedisStore cannot be pickled: its URL may carry a password; make one"
            " in each process"
        )
