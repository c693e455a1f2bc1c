"""What one layer may cost, as the worker knows it."""

from typing import NamedTuple


class Limits(NamedTuple):
    """See ``nsbox.oci.layers.Caps``, whose fields these are."""

    max_bytes: int
    max_entries: int
    max_ratio: int
    max_depth: int
    seconds: float


#: What PATH_MAX and NAME_MAX allow. Deeper trees could be made, but nothing could name their files.
PATH_BYTES = 4096
NAME_BYTES = 255
#: One extended header. Linux holds 64 KiB in an attribute, and no path is longer than 4 KiB.
HEADER_BYTES = 1 << 20
#: Extended headers in front of one entry: each kind twice, and nobody needs that.
HEADERS_PER_ENTRY = 8
XATTRS_PER_ENTRY = 64
#: Pieces of one sparse file.
SEGMENTS = 65_536
#: So much may come out of any blob before the ratio counts: an empty disk image compresses a thousandfold.
RATIO_FLOOR = 64 << 20
#: The largest window that ``zstd -19`` asks for is 8 MiB; --ultra goes up to 128, and stays out.
ZSTD_WINDOW = 32 << 20
