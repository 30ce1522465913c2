"""Balance: the policy, and the endpoints it chooses from."""

from resilient.policies.balance.balance import Balance as Balance
