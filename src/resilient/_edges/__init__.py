"""Where the user's function or block runs, and the policies are driven around it.

May import: `_calls`, `_errors`, `_events`, `_runtimes`, `_values`.
"""
