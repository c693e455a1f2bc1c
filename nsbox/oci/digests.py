"""Digests of blobs, and the names of layers that are made from them. Pure."""

from __future__ import annotations

import base64
import hashlib

#: 26 characters of base32 are 130 bits: nobody finds two layers of one name, and 127 names fit into one page.
_NAME_LENGTH = 26


def sha256(data: bytes) -> str:
    """``sha256:`` and the digest in hexadecimal."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_name(diff_id: str) -> str:
    """The folder of a layer in ``layers/``: short, because a stack's names share one page of mount options on
    kernels before 6.8, and made from the digest, so that the same layer of two images is one folder."""
    raw = bytes.fromhex(diff_id.removeprefix("sha256:"))
    return "i-" + base64.b32encode(raw).decode().lower()[:_NAME_LENGTH]
