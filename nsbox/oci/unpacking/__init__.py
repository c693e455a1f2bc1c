"""Unpacking one layer: what runs below keeper, in a box of its own, on bytes that anybody may have made.

Standard library, isal, zstandard and nsbox.kernel only: each layer pays for the imports again.
"""
