"""State that processes share: what a store is, and who asks it when.

May import: `_calls`, `_errors`, `_events`, `_machines`, `_runtimes`, `_values`.
"""
