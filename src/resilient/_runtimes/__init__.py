"""The only code that waits: one module each for asyncio, trio and threads.

May import: `_errors`, `_values`.
"""
