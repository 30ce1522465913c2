"""Six published results, on this library's own policies and in virtual time.

Each module models one system: `jitter`, `retry_storm`, `hedge_storm`, `tail`,
`throttling`, `balancing`. Only the service and its network are modelled. Its
clients use the real `Retry`, `RetryBudget`, `CircuitBreaker`, `Hedge`,
`AdaptiveConcurrency`, `AdaptiveThrottle`, `Balance` and `Timeout`, on the
event heap of `resilient.simulation` (`_heap`). All randomness is seeded.

``python -m benchmarks.simulations`` runs them, holds what they give against
what was published, and against what the documentation shows.

Ground rules:

* Load is an open loop: requests come when they come, and their latency counts
  from then (`_load`).
* Work whose caller has gone away is done all the same.
* No figure is typed: tables and plots of the documentation are written here.
"""
