"""Hedge: the policy, the race of one call, and what its losers leave."""

from resilient.policies.hedge.hedge import Hedge as Hedge
