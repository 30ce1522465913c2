"""What the command line does: one command a file.

May import: `_calls`, `_errors`, `_machines`, `_policy`, `_sharing`, `_values`,
`policies`, `redis`.
"""
