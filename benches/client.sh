#!/usr/bin/env bash
# How long the client takes beside /bin/true: medians of alternating runs, in one go on one machine.
#
#   benches/client.sh [RUNS]        (default 400)
#
# The client asks a small agent (Python) that answers at once, so that what is measured is the client: start, connect,
# ask, read, exit. Prints both medians and their ratio; the aim is at most 1.5.
set -euo pipefail
exec </dev/null
. "$(dirname "$0")/../scripts/common.sh"
runs=${1:-400}
cd "$here"
ensure_toolchain
command -v python3 >/dev/null || die "this measurement needs python3"
cargo build --locked --release --bin walward-wal
exec python3 - "${CARGO_TARGET_DIR:-target}/release/walward-wal" "$runs" <<'PYTHON'
import os, signal, socket, statistics, struct, sys, tempfile, time

client, runs = os.path.abspath(sys.argv[1]), int(sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)

    # A process of its own: the measuring one must not wait for its interpreter.
    agent = os.fork()
    if agent == 0:
        while True:
            connection, _ = listener.accept()
            head = connection.recv(8, socket.MSG_WAITALL)
            connection.recv(struct.unpack("<I", head[4:])[0], socket.MSG_WAITALL)
            connection.sendall(b"WW\x01\x81" + struct.pack("<I", 5) + b"\0" + struct.pack("<I", 0))
            connection.close()

    try:
        push = [client, "--socket", path, "push", "/data/pg_wal/000000010000000000000001"]
        times = {"/bin/true": [], "walward-wal": []}
        for number in range(runs + 20):
            for name, command in (("/bin/true", ["/bin/true"]), ("walward-wal", push)):
                begun = time.perf_counter()
                # vfork and exec, as cheap as a start can be: nothing else is in the difference.
                code = os.waitpid(os.posix_spawn(command[0], command, os.environ), 0)[1]
                if code != 0:
                    sys.exit(f"error: {name} ended with {code}")
                if number >= 20:
                    times[name].append(time.perf_counter() - begun)
    finally:
        os.kill(agent, signal.SIGKILL)
        os.waitpid(agent, 0)
    true, ours = (statistics.median(values) * 1e6 for values in times.values())
    print(f"/bin/true    {true:8.0f} µs\nwalward-wal  {ours:8.0f} µs\nratio        {ours / true:8.2f}")
PYTHON
