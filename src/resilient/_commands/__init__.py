"""What the command line does: one command a file.

May import: `_calls`, `_errors`, `_policy`, `_sharing`, `_values`, `policies`.
"""
