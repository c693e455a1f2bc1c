"""Whether what lies around belongs to a box: sockets, folders of sandboxes, cgroups. What does not goes.

keeper does all of its own work within one turn of its loop, so between turns everything of a box is known to
be its. api makes the folder of a sandbox just before it orders it, though (a quota is given there), so
something counts only when it was there at the audit before as well.
"""

import os
from collections.abc import Callable, Collection

from nsbox.keeper import layout
from nsbox.kernel.cgroup import Cgroup

_SOCKET, _FOLDER, _CGROUP = "stray_socket", "stray_folder", "stray_cgroup"


class Audit:
    """``discard`` has a folder deleted."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def look(
        self,
        names: Collection[str],
        ids: Collection[str],
        cgroups: Collection[str],
        delegated: Cgroup | None,
        discard: Callable[[str], None],
    ) -> tuple[tuple[str, ...], list[Cgroup]]:
        """Given the names and ids of the boxes there are, and the paths of cgroups that are theirs or waited
        for. What was found, as ``rule name``, and cgroups to be removed when they are empty."""
        sockets = {f"{one}.sock" for one in (*names, *ids)} | {os.path.basename(layout.KEEPER_SOCKET)}
        strays = {(_SOCKET, name) for name in _listed(layout.RUN) if name.endswith(".sock")}
        strays -= {(_SOCKET, name) for name in sockets}
        strays |= {(_FOLDER, name) for name in _listed(layout.SANDBOXES) if name not in ids}
        if delegated is not None:
            boxes = [name for name in delegated.children() if name.startswith("box-")]
            strays |= {(_CGROUP, name) for name in boxes if delegated.child(name).path not in cgroups}
        found = sorted(strays & self._seen)
        self._seen = strays - set(found)
        removed = []
        for rule, name in found:
            if rule == _FOLDER:
                discard(f"{layout.SANDBOXES}/{name}")
            elif rule == _SOCKET:
                _unlink(f"{layout.RUN}/{name}")
            elif delegated is not None:
                stray = delegated.child(name)
                _kill(stray)
                removed.append(stray)
        return tuple(f"{rule} {name}" for rule, name in found), removed


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # told again next time, if it is still there


def _kill(stray: Cgroup) -> None:
    try:
        stray.kill()
    except OSError:
        pass
