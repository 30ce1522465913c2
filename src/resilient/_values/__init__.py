"""Plain values, and how arguments are checked and shown.

May import: the standard library.
"""
