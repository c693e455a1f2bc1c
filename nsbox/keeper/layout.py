"""Where things lie in the state folder. Relative paths: keeper's working directory is the folder itself."""

import re

from nsbox.wire.messages import Create

RUN = "run"
KEEPER_SOCKET = "run/keeper.sock"
LAYERS = "layers"
SANDBOXES = "sandboxes"
TRASH = "trash"
FOLDERS = (RUN, LAYERS, SANDBOXES, TRASH)

#: Names that become parts of paths and of mount options: nothing in them has a meaning there.
LAYER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SANDBOX_ID = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")


def sandbox_socket(sandbox_id: str) -> str:
    """Where a sandbox's init listens."""
    return f"{RUN}/{sandbox_id}.sock"


def is_order(order: Create) -> bool:
    """Whether an order's names are names. api checks what clients send; keeper does not rely on it."""
    names = all(LAYER_NAME.fullmatch(layer) for layer in order.layers)
    return bool(names and order.layers and _SANDBOX_ID.fullmatch(order.id))
