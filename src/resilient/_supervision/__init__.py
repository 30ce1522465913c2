"""Supervision: the engine behind `resilient.supervision`.

========== ===================================================================
runs       one run of a worker, in a task or a thread, and how it is stopped
workers    what is known of a worker from one run to the next
supervisor starts workers, restarts them by `_machines.restarts`, stops them
========== ===================================================================

May import: `_errors`, `_events`, `_machines`, `_observing`, `_runtimes`,
`_values`.
"""
