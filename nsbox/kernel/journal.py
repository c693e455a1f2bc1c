"""Lines on standard error, with the priority that journald understands where the journal reads them.

sd-daemon(3): a line that begins with ``<4>`` is a warning. JOURNAL_STREAM names the device and inode of the
stream that systemd gave (systemd.exec(5)): a shell that inherited the variable and redirected standard error
gets plain lines.
"""

import os
import sys
from collections.abc import Mapping

ERROR, WARNING, INFO = 3, 4, 6
VARIABLE = "JOURNAL_STREAM"


def is_journal(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether a descriptor is the stream that systemd connected to its journal."""
    wanted = environment.get(VARIABLE)
    if not wanted:
        return False
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return wanted == f"{found.st_dev}:{found.st_ino}"


def prefix(priority: int, environment: Mapping[str, str] = os.environ, descriptor: int = 2) -> str:
    """What a line begins with."""
    return f"<{priority}>" if is_journal(environment, descriptor) else ""


def say(priority: int, text: str) -> None:
    """One message. journald reads line by line, so each line gets the priority."""
    head = prefix(priority)
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"{head}{line}\n")
    sys.stderr.flush()
