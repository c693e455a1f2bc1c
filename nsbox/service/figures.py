"""All that is told to Prometheus: what was counted, and how things are now."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable

import nsbox
from nsbox.host.keeper import KeeperLink
from nsbox.model.lifecycle import State
from nsbox.model.metrics import Family, Point, Reading
from nsbox.service.health import Health
from nsbox.service.images import Images
from nsbox.service.meters import Meters
from nsbox.service.registry import Registry
from nsbox.service.tally import Tally

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: Of each sandbox, on request only: name, kind, what, which number, and what makes the unit of it.
_PER_SANDBOX = (
    ("nsbox_sandbox_cpu_seconds_total", "counter", "Processor time used.", "cpu_us", 1e-6),
    ("nsbox_sandbox_memory_bytes", "gauge", "Memory in use.", "memory", 1),
    ("nsbox_sandbox_swap_bytes", "gauge", "Swap in use.", "swap", 1),
    ("nsbox_sandbox_processes", "gauge", "Processes, nsbox's own included.", "processes", 1),
    ("nsbox_sandbox_received_bytes_total", "counter", "Received over the network.", "received", 1),
    ("nsbox_sandbox_sent_bytes_total", "counter", "Sent over the network.", "sent", 1),
    ("nsbox_sandbox_disk_bytes", "gauge", "Written and kept.", "disk", 1),
)


class Figures:
    """``visitors``: how many connections to sandboxes are open."""

    def __init__(
        self,
        registry: Registry,
        keeper: KeeperLink,
        images: Images,
        meters: Meters,
        health: Health,
        tally: Tally,
        visitors: Callable[[], int],
    ) -> None:
        self._registry, self._keeper, self._images = registry, keeper, images
        self._meters, self._health, self._tally, self._visitors = meters, health, tally, visitors

    async def families(self, *, sandboxes: bool) -> list[Family]:
        """``sandboxes``: with what each one uses, which is a series of each for every sandbox that was."""
        states = Counter(live.record.state for live in self._registry.all())
        use = await self._images.disk_use()
        _, reasons = self._health.reasons()
        found = [
            _gauge("nsbox_build_info", "The version that runs.", 1, version=nsbox.__version__),
            Family(
                "nsbox_sandboxes",
                "gauge",
                "Sandboxes that are alive, by state.",
                tuple(Point(states[one], (("state", one.value),)) for one in State if one.alive),
            ),
            _gauge("nsbox_pool_blanks", "Blanks in stock.", self._keeper.blanks),
            _gauge("nsbox_image_bytes", "What the layers of images take on disk.", use.bytes),
            _gauge("nsbox_image_download_bytes", "What half-done downloads take.", use.downloads),
            _gauge("nsbox_preview_connections", "Open connections to sandboxes' ports.", self._visitors()),
            _gauge("nsbox_healthy", "1 when /healthz says ok.", int(not reasons)),
            *self._tally.families(),
            *_process(),
        ]
        return found + (_per_sandbox(await self._meters.of_all()) if sandboxes else [])


def _gauge(name: str, help_: str, value: float, **labels: str) -> Family:
    return Family(name, "gauge", help_, (Point(value, tuple(labels.items())),))


def _process() -> list[Family]:
    """Of the API process. The names are the ones that Prometheus' own clients use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * _PAGE
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = Point(round(used.ru_utime + used.ru_stime, 3))
    return [
        _gauge("process_resident_memory_bytes", "Memory of the API process.", resident),
        _gauge("process_open_fds", "Descriptors of the API process.", len(os.listdir("/proc/self/fd")) - 1),
        Family("process_cpu_seconds_total", "counter", "Processor time of the API process.", (cpu,)),
    ]


def _per_sandbox(readings: list[tuple[str, Reading]]) -> list[Family]:
    found = []
    for name, kind, help_, field, unit in _PER_SANDBOX:
        known = [(sandbox_id, getattr(reading, field)) for sandbox_id, reading in readings]
        points = tuple(
            Point(value * unit, (("sandbox", sandbox_id),))
            for sandbox_id, value in known
            if value is not None
        )
        found.append(Family(name, kind, help_, points))
    return found
