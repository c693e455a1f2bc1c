"""THE table: how many bytes of a body each operation takes. A route that needs a number takes a kilobyte, not
the sixteen megabytes of a file, so that what waits in memory is what somebody has a use for.
"""

from __future__ import annotations

from nsbox.api.operations import OPERATIONS
from nsbox.settings import MIB, Settings

#: Of every operation that has no row of its own.
SMALL = 64 * 1024
#: ``PUT /files`` with bytes instead of JSON.
RAW_FILE = "write_file (bytes)"


def table(settings: Settings) -> dict[str, int]:
    """Bytes, by the operation's name. None of JSON is above ``max_json_bytes``."""
    rows = {
        "write_file": settings.max_json_bytes,
        "exec_command": settings.max_json_bytes,  # stdin is in it
        "start_process": settings.max_json_bytes,
        "create_sandbox": MIB,  # env: 64 KiB, and six times that where each character is escaped
        "fork_sandbox": MIB,
        "set_network": MIB,
        "build_template": MIB,
        "write_stdin": MIB,
    }
    caps = {one.name: min(rows.get(one.name, SMALL), settings.max_json_bytes) for one in OPERATIONS}
    return caps | {"import_image": settings.max_image_bytes, RAW_FILE: settings.max_upload_bytes}
