import time
def test_it(daemon, sandbox):
    for cmd in ["sleep 7101 & sleep 7104", "setsid sleep 7102 & sleep 7104", "yes | cat >/dev/null & sleep 7104", "trap '' TERM INT HUP; sleep 7104"]:
        t=time.monotonic(); r = sandbox.run(cmd, timeoutMs=500); print(cmd, time.monotonic()-t, r['outcome'])
    for cmd in ["kill -9 1; echo a", "kill -15 1; echo a","kill -STOP -1; echo a", "kill -9 -1; echo a"]:
        t=time.monotonic(); r = sandbox.run(cmd, timeoutMs=1500); print(cmd, time.monotonic()-t, r['outcome'], r['exitCode'], r['stdout'])
    assert 0
