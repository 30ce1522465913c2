"""The only code that waits: for asyncio, trio, threads and simulated time.

May import: `_errors`, `_values`.
"""
