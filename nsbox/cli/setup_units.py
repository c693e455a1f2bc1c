"""The unit files that setup writes, made from the one that is shipped."""

from __future__ import annotations

import os
import re
import sys

from nsbox.host import facts
from nsbox.model.errors import HostProblem

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_INSTALLED_UNIT = f"{_PACKAGE}/_unit/nsbox.service"


def unit_text(user: str, state_dir: str) -> str:
    """nsbox.service as shipped, with this installation's command, user and folder in it."""
    ours = {
        "ExecStart=": f"{sys.executable} -P -m nsbox serve",
        "User=": user,
        "Environment=NSBOX_STATE_DIR=": state_dir,
        "ReadWritePaths=": state_dir,
    }
    text = _shipped_unit()
    for setting, value in ours.items():
        text = re.sub(
            f"^{re.escape(setting)}.*$", f"{setting}{value}".replace("\\", r"\\"), text, flags=re.MULTILINE
        )
    return text


#: What a user's manager refuses or has no use for: it is that user already, and may set up no file system
#: namespace without one of users, in which newuidmap would no longer be the host's root.
_SYSTEM_ONLY = (
    "User", "StateDirectory", "StateDirectoryMode", "AppArmorProfile", "NoNewPrivileges", "ProtectSystem",
    "ProtectHome", "PrivateTmp", "KeyringMode", "LimitNOFILE", "Wants", "After", "CapabilityBoundingSet",
    "RemoveIPC", "ReadWritePaths", "DevicePolicy", "DeviceAllow",
)  # fmt: skip


def user_unit_text() -> str:
    """nsbox.service for a user's own manager: the state is where `nsbox serve` puts it by itself."""
    kept = [
        line
        for line in unit_text("", "").splitlines()
        if line.partition("=")[0] not in _SYSTEM_ONLY
        and not line.startswith(("#", "Environment=NSBOX_STATE_DIR="))
    ]
    text = "\n".join(kept).replace("WantedBy=multi-user.target", "WantedBy=default.target")
    head = "# nsbox as a service of one user, written by `nsbox setup --user-service`.\n"
    return head + re.sub(r"\n{3,}", "\n\n", text) + "\n"


def check_installed(unit: str = _INSTALLED_UNIT, remedy: str | None = None) -> None:
    """A service must not depend on a checkout, nor on the copies that the scripts make of it and remove."""
    if not os.path.exists(unit):
        raise HostProblem(
            "this nsbox runs from its sources; the service needs one that is installed and stays",
            remedy=remedy
            or f"sudo PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/usr/local/bin pipx install "
            f"{os.path.dirname(_PACKAGE)} && sudo nsbox setup --service",
        )


def _shipped_unit() -> str:
    # In a wheel beside the package's modules, in a checkout beside the package.
    for path in (_INSTALLED_UNIT, f"{os.path.dirname(_PACKAGE)}/nsbox.service"):
        text = facts.read(path)
        if text is not None:
            return text
    raise HostProblem("this installation has no nsbox.service", remedy="install nsbox again")
