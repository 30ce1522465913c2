"""What a policy is, and what several policies share.

May import: `_calls`, `_edges`, `_errors`, `_events`, `_machines`, `_runtimes`,
`_sharing`, `_values`.
"""
