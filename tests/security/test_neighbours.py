"""What one sandbox uses up must not be another's. All sandboxes share one range of ids, and so whatever the
kernel counts per user and not per namespace."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.client import Sandbox

#: unix(7), ETOOMANYREFS: descriptors that are sent and not yet received are counted per user, and compared
#: with the sender's own RLIMIT_NOFILE.
IN_FLIGHT = """
import array, os, resource, socket, time
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
null, kept, sent, end = open("/dev/null"), [], 0, None
batch = array.array("i", [null.fileno()] * 250)
while end is None and sent < 70_000:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)
    kept += [ours, theirs]
    try:
        while True:
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, batch)])
            sent += len(batch)
    except BlockingIOError:
        pass
    except OSError as error:
        end = error.errno
print(sent, end)
if os.fork() == 0:  # goes on holding them when the command has ended
    os.setsid()
    time.sleep(600)
"""


def test_descriptors_in_flight(make_sandbox: Callable[..., Sandbox]) -> None:
    greedy, other = make_sandbox(), make_sandbox()
    assert greedy.write("/greedy.py", IN_FLIGHT).status == 200
    # It says how many it got out on its stdout, which needs no further descriptor to be handed over.
    result = greedy.exec(["python3", "-u", "/greedy.py"], timeoutMs=60_000)
    assert result.status == 200, result
    print(f"descriptors in flight, and the error that ended it: {result.json['stdout'].split()}")
    answers = [
        other.exec("true"),
        other.write("/tmp/x", "y"),
        other.read("/etc/passwd"),
        other.upload("/tmp/y", b"z"),
    ]
    print(f"the neighbour got {[answer.status for answer in answers]}")
    assert [str(answer) for answer in answers if answer.status != 200] == []
