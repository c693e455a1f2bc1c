"""The commands of one sandbox that can be asked for, and the room that their logs may take together.

One sandbox's commands may write as much as they like: what is kept of it is bounded for each, and for all of
them together, so that no sandbox fills the host's disk through its logs."""

from __future__ import annotations

import trio

from nsbox.host.shelf import Shelf
from nsbox.model.command import Request
from nsbox.service.jobs import Job
from nsbox.service.once import check
from nsbox.settings import Settings

#: However many run, so much of each is kept.
_LEAST = 64 * 1024


class Jobs:
    """By key, in the order in which they began. ``closed``: the sandbox has ended."""

    def __init__(self, sandbox_id: str, shelf: Shelf, settings: Settings) -> None:
        self.sandbox_id, self.shelf = sandbox_id, shelf
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        self._requests: dict[str, Job] = {}
        self._ended: dict[str, Job] = {}  # those that are kept, the oldest first
        self._making_room = trio.Lock()
        self.closed = False

    def all(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.begun.is_set() and job.problem is None]

    def known(self) -> list[Job]:
        """Those too that have not begun yet."""
        return list(self._jobs.values())

    def find(self, key: str) -> Job | None:
        return self._jobs.get(key)

    def requested(self, request: Request) -> Job | None:
        """What an earlier request with this Idempotency-Key has begun. Raises ``Problem`` when that one asked
        for something else."""
        job = self._requests.get(request.key)
        if job is not None and job.note.request is not None:
            check(job.note.request, request)
        return job

    def add(self, job: Job) -> None:
        self._jobs[job.key] = job
        if job.note.request is not None:
            self._requests[job.note.request.key] = job

    def drop(self, job: Job) -> None:
        """It is not to be found any more."""
        self._jobs.pop(job.key, None)
        self._ended.pop(job.key, None)
        if job.note.request is not None and self._requests.get(job.note.request.key) is job:
            del self._requests[job.note.request.key]

    def ended(self, job: Job) -> None:
        """Nothing more comes of it. It is kept for who may ask, as long as there are not too many of
        those."""
        if not job.kept or job.problem is not None:
            self.drop(job)
            return
        self._ended[job.key] = job
        while len(self._ended) > self._settings.keep_ended:
            self.forget(next(iter(self._ended.values())))

    def forget(self, job: Job) -> None:
        """Remove all that is kept of one."""
        self.drop(job)
        job.discard()

    async def make_room(self) -> None:
        """Free what is too much: of each log, and then of all. Of the ended the oldest first, whole; then
        what runs has equal shares."""
        if self._making_room.locked() or self.closed:
            return
        async with self._making_room:
            running = [job for job in self.all() if job.key not in self._ended]
            keep, most = self._settings.log_bytes, self._settings.logs_bytes
            for job in running:
                if not job.log.keeps_head and job.log.size > keep:
                    await job.trim(keep)
            for job in list(self._ended.values()):
                if self._size() <= most:
                    return
                if job.log.size:
                    await job.trim(0)
            share = max(_LEAST, most // max(1, len(running)))
            for job in running:
                if self._size() <= most:
                    return
                if job.log.size > share:
                    await job.trim(share)

    def _size(self) -> int:
        return self.shelf.unread + sum(job.log.size for job in self.all())
