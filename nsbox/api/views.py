"""What the services give → the JSON of answers. Members are in the order the documentation shows them."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Literal

from nsbox.api import answers
from nsbox.model.audit import Event
from nsbox.model.image import DiskUse, Image, Progress, Pruned, Pushed, Stage
from nsbox.model.lifecycle import State
from nsbox.model.metrics import Sample
from nsbox.model.network import NetworkMode, NetworkPolicy, NetworkState, Refusal
from nsbox.model.ports import Exposed, Link, Protocol
from nsbox.model.sandbox import CommandResult, Encoding, Entry, Outcome, Process, Sandbox
from nsbox.model.snapshot import ID_PREFIX, Change, Snapshot
from nsbox.model.standby import Standby
from nsbox.oci.snapshots.orders import Changes

#: The limits of a sandbox, as ``Sandbox.enforced`` and clients name them.
LIMITS = ("vcpus", "memoryMb", "storageMb", "pids")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = -62_135_596_800.0  # 0001-01-01
_LAST = 253_402_300_799.0  # 9999-12-31T23:59:59


def iso(seconds: float) -> str:
    """``2026-03-13T12:30:00.000Z``. A sandbox sets the times of its files at will: they are clamped."""
    clamped = min(max(seconds, _FIRST), _LAST) if not isnan(seconds) else 0.0
    moment = _EPOCH + timedelta(milliseconds=round(clamped * 1000))
    # Not strftime: glibc does not pad years below 1000.
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def sandbox(record: Sandbox, network: NetworkState) -> answers.SandboxView:
    """A sandbox. Its environment is never given back: it holds secrets."""
    own = standby(record.standby)
    view: answers.SandboxView = {
        "id": record.id,
        "status": record.state,
        "vcpus": record.limits.vcpus,
        "memoryMb": record.limits.memory_mb,
        "storageMb": record.limits.storage_mb,
        "timeoutMs": record.timeout_ms,
        "templateId": record.template,
        "region": record.region,
        "createdAt": iso(record.created_at),
        "expiresAt": None if record.state is State.PAUSED else iso(record.expires_at),
        "limits": {
            "enforced": list(record.enforced),
            "notEnforced": [name for name in LIMITS if name not in record.enforced],
            "storage": _storage(record),
        },
        "oom": {
            "kills": record.oom_kills,
            "lastAt": iso(record.last_oom_at) if record.last_oom_at is not None else None,
        },
        "autoPause": own["autoPause"],
        "onExpiry": own["onExpiry"],
        "autoResume": own["autoResume"],
        "network": network_policy(record.network, network),
    }
    if record.state is State.PAUSED and record.remaining_s is not None:
        view["remainingMs"] = round(record.remaining_s * 1000)
    if record.origin.startswith(ID_PREFIX):
        view["snapshotId"] = record.origin
    elif record.origin:
        view["forkedFrom"] = record.origin
    if record.ended_at is not None:
        view["endedAt"] = iso(record.ended_at)
    if record.end_reason is not None:
        view["endReason"] = record.end_reason
    return view


def snapshot(record: Snapshot, *, durable: bool) -> answers.SnapshotView:
    """A snapshot. ``processes``: whether any could run while it was taken; ``changed``: files and folders
    that were seen to change meanwhile."""
    assert record.cut is not None
    return {
        "id": record.id,
        "name": record.name,
        "sandboxId": record.sandbox,
        "templateId": record.base.name,
        "image": record.base.image or None,
        "createdAt": iso(record.created_at),
        "sizeBytes": record.cut.bytes,
        "entries": record.cut.entries,
        "layers": len(record.base.layers),
        "processes": record.standstill,
        "changed": record.cut.changed,
        "skipped": record.cut.skipped,
        "attributesDropped": record.cut.dropped,
        "durable": durable,
        "vcpus": record.limits.vcpus,
        "memoryMb": record.limits.memory_mb,
        "storageMb": record.limits.storage_mb,
        "timeoutMs": record.timeout_ms,
    }


def changes(found: Changes) -> answers.ChangesView:
    """A page of what differs. ``next`` goes into the next request's ``after``."""
    return {"changes": [_change(one) for one in found.changes], "next": found.after or None}


def _change(one: Change) -> answers.ChangeView:
    return {
        **path_view(b"/" + base64.b64decode(one.path)),
        "change": one.kind,
        "type": one.type,
        "size": one.size,
        "mode": f"{one.mode & 0o7777:04o}",
        "uid": one.uid,
        "gid": one.gid,
        "mtime": iso(one.mtime),
    }


def standby(wish: Standby) -> answers.StandbyView:
    """What a sandbox does by itself."""
    pause = wish.auto_pause
    return {
        "autoPause": None
        if pause is None
        else {"idleMs": pause.idle_ms, "ignoreProcesses": pause.ignore_processes},
        "onExpiry": wish.on_expiry,
        "autoResume": wish.auto_resume,
    }


def _storage(record: Sandbox) -> answers.StorageView | None:
    """What really holds, once that is known; ``full`` only where the limit is watched."""
    if record.storage is None:
        return None
    return {
        "backend": record.storage.backend,
        "storageMb": round(record.storage.size / (1 << 20), 2),
        "inodes": record.storage.inodes,
        "full": record.storage_full,
    }


def image(record: Image) -> answers.ImageView:
    """An image. Its environment is given: it is the image's, and no secret of a client's."""
    config = record.config
    return {
        "image": record.reference,
        "digest": record.digest,
        "indexDigest": record.index or None,
        "platform": "/".join(part for part in (config.os, config.architecture, config.variant) if part),
        "createdAt": config.created or None,
        "pulledAt": iso(record.pulled_at),
        "source": record.source,
        "sizeBytes": sum(layer.unpacked for layer in record.layers),
        "downloadBytes": sum(layer.size for layer in record.layers),
        "shell": record.shell,
        "config": {
            "env": config.env,
            "workdir": config.workdir,
            "user": config.user,
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "labels": config.labels,
        },
        "layers": [
            {
                "digest": layer.digest or None,
                "diffId": layer.diff_id or None,
                "downloadBytes": layer.size,
                "sizeBytes": layer.unpacked,
            }
            for layer in record.layers
        ],
    }


def disk_use(use: DiskUse) -> answers.DiskUseView:
    """What images take on disk."""
    return {
        "images": use.images,
        "layers": use.layers,
        "bytes": use.bytes,
        "reclaimableBytes": use.reclaimable,
        "downloadBytes": use.downloads,
    }


def pruned(what: Pruned) -> answers.PrunedView:
    """What was removed."""
    return {"images": list(what.images), "layers": len(what.layers), "freedBytes": what.bytes}


def progress(news: Progress) -> answers.ProgressView:
    """A line of a pull's progress; without ``layer`` it is of the image as a whole."""
    if not news.layer:
        return {"stage": news.stage}
    return {"stage": news.stage, "layer": news.layer, "current": news.current, "total": news.total}


def pushed(what: Pushed) -> answers.PushedView:
    """What a registry has now."""
    layers: list[answers.PushedLayerView] = [
        {"digest": one.digest, "sizeBytes": one.size, "outcome": _outcome(one.how)} for one in what.layers
    ]
    return {
        "image": what.reference,
        "digest": what.digest,
        "sentBytes": sum(one.size for one in what.layers if one.how is Stage.DONE),
        "layers": layers,
    }


def _outcome(how: Stage) -> Literal["uploaded", "mounted", "present"]:
    match how:
        case Stage.PRESENT:
            return "present"
        case Stage.MOUNTED:
            return "mounted"
        case _:
            return "uploaded"


def network_policy(policy: NetworkPolicy, state: NetworkState) -> answers.NetworkView:
    """``enforced``: whether what the policy allows can be reached at present; what it refuses never can."""
    enforced = state.up or policy.mode is NetworkMode.OFF
    view: answers.NetworkView = {
        "mode": policy.mode,
        "allow": list(policy.allow),
        "deny": list(policy.deny),
        "ports": list(policy.ports),
        "enforced": enforced,
    }
    if not enforced:
        view["reason"] = state.reason
    return view


def refusals(found: list[Refusal]) -> answers.RefusalsView:
    """The log of a sandbox's network."""
    return {"entries": [_refusal(one) for one in found]}


def _refusal(one: Refusal) -> answers.RefusalView:
    return {
        "at": iso(one.at),
        "reason": one.reason,
        "protocol": one.protocol,
        "address": one.address or None,
        "port": one.port or None,
        "name": one.name or None,
    }


def killed(record: Sandbox) -> answers.KilledView:
    """The answer to DELETE."""
    return {"id": record.id, "status": record.state}


def paused(record: Sandbox, reclaimed: int | None) -> answers.PausedView:
    """The answer to pause."""
    return {"id": record.id, "status": record.state, "reclaimedBytes": reclaimed}


def time_left(record: Sandbox) -> answers.TimeView:
    """The answer to resume and to timeout. Of one that is paused, when it will end is not known; how much
    time it has left is."""
    paused = record.state is State.PAUSED
    view: answers.TimeView = {
        "id": record.id,
        "status": record.state,
        "timeoutMs": record.timeout_ms,
        "expiresAt": None if paused else iso(record.expires_at),
    }
    if paused and record.remaining_s is not None:
        view["remainingMs"] = round(record.remaining_s * 1000)
    return view


def result(outcome: CommandResult, encoding: Encoding) -> answers.ResultView:
    """A finished command: ``exitCode`` only when it exited, ``signal`` only when a signal ended it."""
    return {
        "stdout": _output(outcome.stdout.data, encoding),
        "stderr": _output(outcome.stderr.data, encoding),
        "exitCode": outcome.exit_code,
        "durationMs": outcome.duration_ms,
        "timedOut": outcome.outcome is Outcome.TIMED_OUT,
        "signal": outcome.signal,
        "outcome": outcome.outcome,
        "truncated": outcome.stdout.truncated or outcome.stderr.truncated,
        "stdoutTruncated": outcome.stdout.truncated,
        "stderrTruncated": outcome.stderr.truncated,
        "encoding": encoding,
    }


def _output(data: bytes, encoding: Encoding) -> str:
    if encoding is Encoding.BASE64:
        return base64.b64encode(data).decode()
    return data.decode("utf-8", "replace")


def process(record: Process) -> answers.ProcessView:
    """A command that is known by its id. ``logStart`` to ``logEnd``: which bytes of its output are kept.
    ``cpuMs`` and ``memoryBytes`` of one that runs are None where nobody has asked, or can be told."""
    view: answers.ProcessView = {
        "pid": record.pid or None,
        "command": record.command,
        "id": record.id,
        "cwd": record.cwd,
        "startedAt": iso(record.started_at),
        "status": "running" if record.running else "exited",
        "kind": record.kind,
        "logStart": record.log_start,
        "logEnd": record.log_end,
        "stdin": "open" if record.stdin_open else "closed",
        "cpuMs": record.cpu_ms,
    }
    if record.running:
        view["memoryBytes"] = record.memory
        return view
    view["exitCode"] = record.exit_code
    view["signal"] = record.signal
    view["outcome"] = record.outcome
    view["timedOut"] = record.outcome is Outcome.TIMED_OUT
    view["durationMs"] = record.duration_ms
    view["endedAt"] = None if record.ended_at is None else iso(record.ended_at)
    view["peakMemoryKb"] = record.peak_kb
    return view


def port(exposed: Exposed) -> answers.PortView:
    """An exposed port."""
    view: answers.PortView = {
        "port": exposed.port.port,
        "url": exposed.url,
        "protocol": exposed.port.protocol,
        "public": exposed.port.public,
    }
    if exposed.port.protocol is Protocol.TCP:
        view["hostPort"] = exposed.port.host_port
    if exposed.listening is not None:
        view["listening"] = exposed.listening
    return view


def link(made: Link) -> answers.LinkView:
    """A signed address."""
    return {"url": made.url, "expiresAt": iso(made.expires_at)}


def file_content(path: bytes, data: bytes, wanted: Encoding | None) -> answers.FileView:
    """A file. Without a wish it is text where the bytes are UTF-8 and base64 where they are not: a file
    that is read and written back must stay the same."""
    if wanted is None:
        try:
            content, encoding = data.decode(), Encoding.UTF8
        except UnicodeDecodeError:
            content, encoding = _output(data, Encoding.BASE64), Encoding.BASE64
    else:
        content, encoding = _output(data, wanted), wanted
    return {**path_view(path), "content": content, "encoding": encoding}


def path_view(path: bytes) -> answers.PathView:
    """A path. One that is not UTF-8 shows U+FFFD, and its bytes in ``pathBase64``."""
    shown, raw = _shown(path)
    return {"path": shown} if raw is None else {"path": shown, "pathBase64": raw}


def _shown(path: bytes) -> tuple[str, str | None]:
    """As text; and as base64 where that is not all."""
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return path.decode("utf-8", "replace"), base64.b64encode(path).decode()


def _told(text: str) -> tuple[str, str | None]:
    return _shown(text.encode("utf-8", "surrogateescape"))


def entry_name(found: Entry) -> str:
    """An entry of a directory, for a quick look."""
    return _told(found.name)[0]


def entry(entry: Entry) -> answers.EntryView:
    """An entry of a directory."""
    (name, raw_name), (path, raw_path) = _told(entry.name), _told(entry.path)
    view: answers.EntryView = {
        "name": name,
        "path": path,
        "type": entry.type,
        "size": entry.size,
        "mode": f"{entry.mode & 0o7777:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": iso(entry.mtime),
    }
    if raw_name is not None:
        view["nameBase64"] = raw_name
    if raw_path is not None:
        view["pathBase64"] = raw_path
    if entry.target is not None:
        view["target"], raw_target = _told(entry.target)
        if raw_target is not None:
            view["targetBase64"] = raw_target
    return view


def audited(one: Event) -> answers.AuditEventView:
    """An event of the audit log."""
    return {
        "id": one.id,
        "at": iso(one.at),
        "action": one.action,
        "userId": one.user,
        "keyId": one.key,
        "onBehalfOf": one.subject,
        "sandboxId": one.sandbox,
        "target": one.target,
        "from": one.client,
        "outcome": one.outcome,
        "status": one.status,
        "count": one.count,
    }


def sample(one: Sample) -> answers.SampleView:
    """What a sandbox used. What is null cannot be told on this host."""
    used = one.reading
    return {
        "at": iso(one.at),
        "cpu": {
            "usedMs": _ms(used.cpu_us),
            "throttledMs": _ms(used.throttled_us),
            "percent": one.cpu_percent,
        },
        "memory": {"bytes": used.memory, "peakBytes": used.memory_peak, "swapBytes": used.swap},
        "io": {"readBytes": used.io_read, "writtenBytes": used.io_written},
        "processes": used.processes,
        "network": {"receivedBytes": used.received, "sentBytes": used.sent},
        "disk": {"bytes": used.disk, "inodes": used.inodes},
    }


def _ms(microseconds: int | None) -> int | None:
    return None if microseconds is None else microseconds // 1000
