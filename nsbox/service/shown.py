"""Commands as clients are told of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from nsbox.host.box import Box, Refusal, Unresponsive, Use
from nsbox.model.sandbox import Process, new_command_id
from nsbox.service.jobs import Job

#: How long a list of processes waits for init to tell what they use, in seconds.
_MEASURE = 2.0


async def measured(box: Box | None, jobs: Sequence[Job]) -> list[Process]:
    """What is known of them, and what those use that run. Init is asked only where there are some: one that
    idles is left alone, and what is not known must not hold up what is."""
    used: dict[str, Use] = {}
    if box is not None and any(not job.ended.is_set() for job in jobs):
        with trio.move_on_after(_MEASURE):
            try:
                used = await box.measure(new_command_id())
            except (Unresponsive, Refusal):
                pass
    return [_with_use(view(job), used.get(job.key)) for job in jobs]


def _with_use(process: Process, use: Use | None) -> Process:
    if use is None or not process.running:
        return process
    return msgspec.structs.replace(process, cpu_ms=use.cpu_ms, memory=use.memory)


def view(job: Job) -> Process:
    """A command as clients are told of it."""
    end = job.end
    process = Process(
        id=job.key,
        pid=job.pid,
        kind=job.note.kind.value,
        command=job.note.command,
        cwd=job.note.cwd,
        started_at=job.note.started_at,
        log_start=job.log.start,
        log_end=job.log.end,
        stdin_open=end is None and job.input is not None and not job.input.closed,
    )
    if end is None:
        return process
    return msgspec.structs.replace(
        process,
        running=False,
        outcome=end.outcome,
        exit_code=end.exit_code,
        signal=end.signal,
        duration_ms=end.duration_ms,
        ended_at=end.ended_at,
        cpu_ms=end.cpu_ms,
        peak_kb=end.peak_kb,
    )
