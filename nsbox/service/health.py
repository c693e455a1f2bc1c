"""Whether sandboxes can be made now."""

import nsbox
from nsbox.service.registry import Registry


class Health:
    """Told by the daemon what it knows."""

    def __init__(self, registry: Registry, enforced: tuple[str, ...]) -> None:
        self._registry, self._enforced = registry, enforced
        self.ready = False

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether all is well, and facts that are no secret."""
        status = "ok" if self.ready else "starting"
        return self.ready, {
            "status": status,
            "version": nsbox.__version__,
            "sandboxes": len(self._registry),
            "enforced": list(self._enforced),
        }
