"""Numbers as tar headers write them."""

from functools import lru_cache

from nsbox.oci.unpacking.refusal import Reason, Refused

#: What Linux can say in 64 bits; more is nonsense in any field.
_MOST = (1 << 63) - 1
#: ext4 keeps 34 bits of seconds; what lies beyond, or before 1901, is taken for the nearest that it can keep.
_EARLIEST, _LATEST = -(1 << 31) * 10**9, (1 << 33) * 10**9
_BASE_256, _NEGATIVE = 0x80, 0xFF


@lru_cache(maxsize=1024)  # modes, owners and times are the same in file after file
def field(data: bytes) -> int:
    """A header's field: octal digits, or GNU's base 256. int() would take 0o7, 1_0 and +7 too."""
    if data[0] & _BASE_256:
        return _base_256(data)
    digits = data.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise Refused(Reason.CORRUPT, f"a number in a header is none: {data!r}")
    return int(digits, 8)


def _base_256(data: bytes) -> int:
    if data[0] == _NEGATIVE:
        return max(int.from_bytes(data, "big", signed=True), -_MOST)
    number = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
    if number > _MOST:
        raise Refused(Reason.CORRUPT, "a number in a header is larger than 64 bits")
    return number


def decimal(data: bytes) -> int:
    """A number of an extended header."""
    if not data.isdigit() or len(data) > 20 or (number := int(data)) > _MOST:
        raise Refused(Reason.CORRUPT, f"a number in an extended header is none: {data[:40]!r}")
    return number


def seconds(data: bytes) -> int:
    """A time of an extended header, such as -1.5, in nanoseconds."""
    whole, _, part = data.partition(b".")
    negative = whole.startswith(b"-")
    whole = whole[negative:]
    if not whole.isdigit() or len(whole) > 20 or not (part.isdigit() or not part) or len(part) > 40:
        raise Refused(Reason.CORRUPT, f"a time in an extended header is none: {data[:40]!r}")
    nanoseconds = int(whole) * 10**9 + int(part[:9].ljust(9, b"0"))
    return bounded_time(-nanoseconds if negative else nanoseconds)


def bounded_time(nanoseconds: int) -> int:
    """The nearest time that can be kept."""
    return min(max(nanoseconds, _EARLIEST), _LATEST)
