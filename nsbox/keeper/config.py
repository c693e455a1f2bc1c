"""What keeper is told at its start, as JSON on its command line: there is no secret in it."""

import json
from typing import NamedTuple


class Config(NamedTuple):
    """``cgroup``: the delegated cgroup's path, or empty. ``controllers``: those given to its children.
    ``lifeline`` ends keeper when it closes; ``announce`` gets one line when sandboxes can be made.
    ``io_max``: the line for every sandbox's io.max, or empty.
    ``network``: what its process is told, as JSON; empty for no network."""

    state_dir: str
    pool_size: int
    cgroup: str
    controllers: tuple[str, ...]
    lifeline: int
    announce: int
    io_max: str = ""
    network: str = ""

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def from_json(cls, text: str) -> "Config":
        fields = json.loads(text)
        fields["controllers"] = tuple(fields["controllers"])
        return cls(**fields)
