"""What the library raises and warns, and how errors are copied and chained.

May import: `_values`.
"""
