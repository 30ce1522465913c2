"""What looks at every policy of the process at once.

May import: `_calls`, `_errors`, `_events`, `_policy`, `_runtimes`, `_values`.
"""
