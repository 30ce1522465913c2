"""What flows through a pipeline: the call, its outcome, and the judgement of it.

May import: `_errors`, `_events`, `_runtimes`, `_values`.
"""
