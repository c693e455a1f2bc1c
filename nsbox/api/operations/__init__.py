"""The registry of operations: every route of the API is in it, or a test fails.

A new one is one ``Operation`` in the module of its kind, with the types that its handler uses.
"""

from __future__ import annotations

from nsbox.api.operations import accounts, commands, host, library, sandboxes
from nsbox.api.operations.declare import Operation

OPERATIONS: tuple[Operation, ...] = (
    *sandboxes.OPERATIONS,
    *commands.OPERATIONS,
    *library.OPERATIONS,
    *accounts.OPERATIONS,
    *host.OPERATIONS,
)
BY_NAME: dict[str, Operation] = {operation.name: operation for operation in OPERATIONS}
