"""A Debian 12 machine like the users' to run the tests in: built from Debian's packages, booted under QEMU.

Standard library and prctl only. ``python -m tests.host`` is the command; ``scripts/test-host`` calls it.
"""
