"""RateLimiter: the policy, its queue and its configuration."""

from resilient.policies.rate_limiter.rate_limiter import RateLimiter as RateLimiter
