"""The rules: pure objects that take `now` as an argument and act on nothing.

May import: `_errors`, `_values`.
"""
