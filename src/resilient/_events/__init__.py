"""Events, who listens to them, and the counters that metrics read.

May import: `_errors`, `_values`.
"""
