"""A bundle for OCI runtimes (opencontainers runtime-spec, config.json) that comes near what nsbox gives."""

from __future__ import annotations

import json
import os
from typing import Any

from bench.account import Who

#: Those nsbox leaves to a sandbox's root.
_CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
        "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )
]  # fmt: skip
_QUIET = ["nosuid", "noexec", "nodev"]


def make(folder: str, layer: str, who: Who) -> str:
    """Write a bundle for ``who`` that runs `true` on ``layer``; its folder."""
    os.mkdir(folder, 0o700)
    with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as file:
        json.dump(_config(layer, who), file)
    for path in (folder, file.name):
        os.chown(path, who.uid, who.gid)
    return folder


def _config(layer: str, who: Who) -> dict[str, Any]:
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    }
    if who.uid:
        # One id: more would need newuidmap, which runtimes leave to what calls them.
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = [{"containerID": 0, "hostID": who.uid, "size": 1}]
        linux["gidMappings"] = [{"containerID": 0, "hostID": who.gid, "size": 1}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "noNewPrivileges": True,
        },
        "root": {"path": layer, "readonly": True},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*_QUIET, "ro"]},
        ],
        "linux": linux,
    }
