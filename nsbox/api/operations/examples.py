"""Answers as a daemon has given them. A test holds them to the types."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]

SANDBOX_ID = "sb_37riw2ixclm2uk3c5qp4cho6k6zgjqjh"
SNAPSHOT_ID = "snap_zljsbpxyqn4g2yeyhf4pdlv2m5ib3tso"
NETWORK: JSON = {"mode": "public", "allow": [], "deny": [], "ports": [], "enforced": True}
SANDBOX: JSON = {
    "id": SANDBOX_ID,
    "status": "running",
    "vcpus": 2,
    "memoryMb": 1024,
    "storageMb": 1024,
    "timeoutMs": 600000,
    "templateId": "default",
    "region": "local",
    "createdAt": "2026-11-23T07:29:34.515Z",
    "expiresAt": "2026-11-23T07:39:34.515Z",
    "limits": {
        "enforced": ["vcpus", "memoryMb", "storageMb", "pids"],
        "notEnforced": [],
        "storage": {"backend": "quota", "storageMb": 1024.0, "inodes": 131072, "full": False},
    },
    "oom": {"kills": 0, "lastAt": None},
    "autoPause": None,
    "onExpiry": "kill",
    "autoResume": False,
    "network": NETWORK,
}
TIME: JSON = {
    "id": SANDBOX_ID,
    "status": "running",
    "timeoutMs": 600000,
    "expiresAt": "2026-11-23T07:49:12.003Z",
}
METRICS: JSON = {
    "id": SANDBOX_ID,
    "status": "running",
    "now": {
        "at": "2026-11-25T17:54:11.120Z",
        "cpu": {"usedMs": 534, "throttledMs": 0, "percent": 1.78},
        "memory": {"bytes": 11472896, "peakBytes": 14049280, "swapBytes": 0},
        "io": {"readBytes": 0, "writtenBytes": 4096},
        "processes": 3,
        "network": {"receivedBytes": 180, "sentBytes": 20180},
        "disk": {"bytes": 5001216, "inodes": 3},
    },
    "history": [],
}
REFUSALS: JSON = {
    "entries": [
        {
            "at": "2026-11-25T10:56:10.944Z",
            "reason": "inside",
            "protocol": "tcp",
            "address": "10.255.255.53",
            "port": 53,
            "name": None,
        }
    ]
}
PORT: JSON = {
    "port": 8080,
    "url": "http://sb-ndnvbg3ciawuxoionet33iunps2hjgcq-8080.localhost:8081/",
    "protocol": "http",
    "public": True,
}
LINK: JSON = {
    "url": "http://sb-ndnvbg3ciawuxoionet33iunps2hjgcq-8080.localhost:8081/?nsbox_link=1795605688.2ovegywI",
    "expiresAt": "2026-11-25T11:21:28.000Z",
}
RESULT: JSON = {
    "stdout": "Hello\n4\n",
    "stderr": "",
    "exitCode": 0,
    "durationMs": 18,
    "timedOut": False,
    "signal": None,
    "outcome": "exited",
    "truncated": False,
    "stdoutTruncated": False,
    "stderrTruncated": False,
    "encoding": "utf8",
}
_KNOWN: JSON = {
    "pid": 24,
    "command": "python3 -m http.server 8080",
    "id": "cmd_92f9ee1716356b31d9cd",
    "cwd": "/app",
    "startedAt": "2026-11-23T07:29:35.147Z",
    "status": "running",
    "kind": "process",
    "logStart": 0,
    "logEnd": 0,
    "stdin": "closed",
    "cpuMs": 3,
}
PROCESS: JSON = {**_KNOWN, "memoryBytes": 9_437_184}
ENDED: JSON = {
    **_KNOWN,
    "status": "exited",
    "exitCode": 0,
    "signal": None,
    "outcome": "exited",
    "timedOut": False,
    "durationMs": 12,
    "endedAt": "2026-11-23T07:29:35.159Z",
    "peakMemoryKb": 3260,
}
LOG: JSON = {
    "offset": 0,
    "encoding": "utf8",
    "chunks": [
        {"stream": "stdout", "offset": 0, "data": "one\n"},
        {"stream": "stderr", "offset": 4, "data": "two\n"},
    ],
    "nextOffset": 8,
    "dropped": 0,
    "process": ENDED,
}
DOWNLOAD: JSON = {
    "ticket": "5b0c7d1b1f4e4f0fa4b7c8de2f90b1a65b0c7d1b1f4e4f0f",
    "path": "/download?ticket=5b0c7d1b1f4e4f0fa4b7c8de2f90b1a65b0c7d1b1f4e4f0f",
    "expiresInS": 30,
}
TICKET: JSON = {
    "ticket": "5b0c7d1b1f4e4f0fa4b7c8de2f90b1a65b0c7d1b1f4e4f0f",
    "protocols": ["nsbox.v1", "nsbox.v1.5b0c7d1b1f4e4f0fa4b7c8de2f90b1a65b0c7d1b1f4e4f0f"],
    "expiresInS": 30,
}
SNAPSHOT: JSON = {
    "id": SNAPSHOT_ID,
    "name": "before",
    "sandboxId": SANDBOX_ID,
    "templateId": "default",
    "image": None,
    "createdAt": "2026-11-25T17:49:41.745Z",
    "sizeBytes": 441,
    "entries": 8,
    "layers": 2,
    "processes": "frozen",
    "changed": 0,
    "skipped": 0,
    "attributesDropped": 0,
    "durable": False,
    "vcpus": 1,
    "memoryMb": 512,
    "storageMb": 1024,
    "timeoutMs": 1800000,
}
FORKED: JSON = {
    "sandboxes": [{**SANDBOX, "forkedFrom": SANDBOX_ID}],
    "processes": "frozen",
    "changed": 0,
    "sizeBytes": 441,
}
CHANGE: JSON = {
    "path": "/app/a",
    "change": "added",
    "type": "file",
    "size": 3,
    "mode": "0644",
    "uid": 0,
    "gid": 0,
    "mtime": "2026-11-25T17:49:41.712Z",
}
IMAGE: JSON = {
    "image": "docker.io/library/alpine:latest",
    "digest": "sha256:1e42bbe2508154c9126d48c2b8a75420c3544343bf86fd041fb7527e017a4b4a",
    "indexDigest": None,
    "platform": "linux/amd64",
    "createdAt": "2026-10-08T11:04:56Z",
    "pulledAt": "2026-11-25T17:49:41.745Z",
    "source": "registry",
    "sizeBytes": 7843840,
    "downloadBytes": 3627381,
    "shell": True,
    "config": {
        "env": {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        "workdir": "/",
        "user": "",
        "entrypoint": [],
        "cmd": ["/bin/sh"],
        "labels": {},
    },
    "layers": [
        {
            "digest": "sha256:2d35ebdb57d9971fea0cac1582aa78935adf8058b2cc32db163c98822e5dfa1b",
            "diffId": "sha256:08000c18d16dadf9553d747a58cf44023423a9ab010aab96cf263d2216b8b350",
            "downloadBytes": 3627381,
            "sizeBytes": 7843840,
        }
    ],
}
DISK_USE: JSON = {
    "images": 1,
    "layers": 1,
    "bytes": 7843840,
    "reclaimableBytes": 0,
    "downloadBytes": 0,
}
TEMPLATE: JSON = {
    "id": "default",
    "default": True,
    "description": "The host's own shell, core tools, Python and, where it is installed, Node.js",
    "ready": True,
}
BUILT: JSON = {"id": "data", "image": "python:3.12-slim", "layers": 6, "ready": True}
PUSHED: JSON = {
    "image": "registry.example.com/team/tool:1",
    "digest": "sha256:" + "5e" * 32,
    "sentBytes": 1048576,
    "layers": [
        {"digest": "sha256:" + "a1" * 32, "sizeBytes": 3407872, "outcome": "present"},
        {"digest": "sha256:" + "b2" * 32, "sizeBytes": 1048576, "outcome": "uploaded"},
    ],
}
HEALTH: JSON = {
    "status": "ok",
    "reasons": [],
    "version": "0.1.0",
    "sandboxes": 2,
    "enforced": ["vcpus", "memoryMb", "storageMb", "pids"],
}
USER_ID = "us_2ovegywixff0ffw9"
USER: JSON = {
    "id": USER_ID,
    "name": "ann",
    "role": "user",
    "plan": "unlimited",
    "createdAt": "2026-11-25T17:49:41.745Z",
    "disabled": False,
}
KEY: JSON = {
    "id": "key_5b0c7d1b1f4e",
    "name": "laptop",
    "prefix": "nsbox_k3v9ab",
    "userId": USER_ID,
    "scopes": ["sandboxes", "files"],
    "createdAt": "2026-11-25T17:49:41.745Z",
    "expiresAt": None,
    "lastUsedAt": None,
    "revokedAt": None,
}
ME: JSON = {
    "user": USER,
    "key": KEY,
    "plan": {
        "name": "unlimited",
        "computeSecondsPerMonth": None,
        "vcpus": 4,
        "memoryMb": 4096,
        "storageMb": 102400,
        "timeoutMs": 86400000,
        "sandboxes": 1000,
    },
    "usage": {
        "periodStart": "2026-11-01T00:00:00.000Z",
        "periodEnd": "2026-12-01T00:00:00.000Z",
        "computeSeconds": 0,
        "computeSecondsLimit": None,
    },
}
AUDITED: JSON = {
    "id": 17,
    "at": "2026-11-25T17:49:41.745Z",
    "action": "exec_command",
    "userId": USER_ID,
    "keyId": "key_5b0c7d1b1f4e",
    "onBehalfOf": None,
    "sandboxId": SANDBOX_ID,
    "target": None,
    "from": "192.0.2.7",
    "outcome": "done",
    "status": 200,
    "count": 1,
}
PROBLEM: JSON = {
    "type": "urn:nsbox:problem:invalid_field",
    "title": "A value is wrong",
    "status": 422,
    "detail": "vcpus must be between 1 and 4",
    "code": "invalid_field",
    "field": "vcpus",
    "minimum": 1,
    "maximum": 4,
}
USAGE: JSON = {
    "from": "2026-11-01T00:00:00.000Z",
    "to": "2026-12-01T00:00:00.000Z",
    "by": "sandbox",
    "computeSeconds": 5,
    "usage": [{"sandboxId": SANDBOX_ID, "computeSeconds": 5}],
}
