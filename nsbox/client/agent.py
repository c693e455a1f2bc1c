"""What every request says of who asks."""

from __future__ import annotations

from nsbox import __version__

AGENT = f"nsbox-client/{__version__}"


def acting_for(user: str | None) -> tuple[tuple[str, str], ...]:
    """The header of an admin who acts for a user. Raises ``ValueError``."""
    if user is None:
        return ()
    if not user.isascii() or not user.isprintable() or " " in user or not user:
        raise ValueError("a user is named by an id such as us_…")
    return (("Nsbox-User", user),)
