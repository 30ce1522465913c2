"""One policy a file, or a folder where it needs several; none imports another.

May import: `_calls`, `_edges`, `_errors`, `_events`, `_machines`, `_policy`,
`_runtimes`, `_sharing`, `_values`.
"""
