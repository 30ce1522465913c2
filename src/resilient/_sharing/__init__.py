"""State that processes share: what a store is, and who asks it when.

A policy imports it when it is given a store: few programs have one.

May import: `_calls`, `_errors`, `_events`, `_machines`, `_runtimes`, `_values`.
"""
