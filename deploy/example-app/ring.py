"""One rank of a gang: finds all others, and makes sure that everybody agrees on who is who and has its GPUs.

    ring.py [SECONDS]

Rank, size and names of the others come from the environment that Weft sets: RANK, WORLD_SIZE, WEFT_HOSTS, MASTER_PORT.
EXPECT_GPUS says how many GPUs a rank must have (8). Afterwards the rank stays for SECONDS and keeps answering, so that a rank
that was replaced finds it. Only Python's own library is used.
"""

import json
import os
import signal
import socket
import sys
import threading
import time

from hold import visible_gpus

PATIENCE_SECONDS = float(os.environ.get("RING_PATIENCE_SECONDS", "120"))
MESSAGE_BYTES = 65536


def describe():
    """What this rank is, in its own words."""
    gpus, devices = visible_gpus()
    return {
        "rank": int(os.environ["RANK"]),
        "worldSize": int(os.environ["WORLD_SIZE"]),
        "host": socket.gethostname(),
        "gpus": gpus,
        "devices": devices,
    }


class Answers:
    """Tells everybody who asks what this rank is, and remembers who asked: a rank that left before all others have found
    it would leave them looking."""

    def __init__(self, listener, me):
        self._listener, self._line = listener, json.dumps(me).encode() + b"\n"
        self._missing = set(range(me["worldSize"])) - {me["rank"]}
        self._changed = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    connection.settimeout(5)
                    asker = int(connection.makefile("rb").readline(16))
                    connection.sendall(self._line)
                except (OSError, ValueError):
                    # A rank asks again; whoever else this is does not matter.
                    continue
            with self._changed:
                self._missing.discard(asker)
                self._changed.notify_all()

    def wait(self, deadline):
        """Waits until all have asked, and returns the ranks that have not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._missing, max(deadline - time.monotonic(), 0))
            return sorted(self._missing)


def ask(address, own_rank, deadline):
    """What the rank at an address is. It may not be up yet, and its name may not resolve yet."""
    host, port = address
    while True:
        try:
            with socket.create_connection((host, port), timeout=5) as connection:
                connection.sendall(b"%d\n" % own_rank)
                line = connection.makefile("rb").readline(MESSAGE_BYTES)
                if line.endswith(b"\n"):
                    return json.loads(line)
                reason = "it hung up in the middle of its answer"
        except OSError as error:
            reason = str(error)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{host}:{port} did not answer within {PATIENCE_SECONDS:g} s: {reason}")
        time.sleep(0.2)


def problems(me, peers, hosts, expected_gpus):
    """Every way in which the gang is not what it should be."""
    found = []
    if me["worldSize"] != len(hosts):
        found.append(f"WORLD_SIZE is {me['worldSize']}, but WEFT_HOSTS names {len(hosts)} hosts")
    for rank, peer in enumerate(peers):
        if peer["rank"] != rank:
            found.append(f"{hosts[rank][0]} should be rank {rank} and says that it is rank {peer['rank']}")
        if peer["worldSize"] != me["worldSize"]:
            found.append(f"rank {rank} believes in {peer['worldSize']} ranks, this one in {me['worldSize']}")
        for what in ("gpus", "devices"):
            if len(peer[what]) != expected_gpus:
                found.append(f"rank {rank} has {len(peer[what])} {what}, not {expected_gpus}")
    uuids = [gpu for peer in peers for gpu in peer["gpus"]]
    if len(set(uuids)) != len(uuids):
        found.append("a GPU was given to two ranks")
    return found


def parse_hosts():
    port = int(os.environ.get("MASTER_PORT", "29500"))
    hosts = []
    for entry in os.environ["WEFT_HOSTS"].split(","):
        name, _, own_port = entry.partition(":")
        hosts.append((name, int(own_port or port)))
    return hosts


def report(result):
    line = json.dumps(result)
    print(line, flush=True)
    path = "/dev/termination-log"
    if os.path.exists(path):
        with open(path, "w", encoding="utf-8") as log:
            log.write(line[:4096])


def main():
    stop = threading.Event()
    # The first process of a container ignores SIGTERM unless it says otherwise.
    signal.signal(signal.SIGTERM, lambda *_: (stop.set(), sys.exit(128 + signal.SIGTERM)))
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    expected_gpus = int(os.environ.get("EXPECT_GPUS", "8"))
    try:
        me, hosts = describe(), parse_hosts()
    except (KeyError, ValueError) as error:
        report({"ok": False, "error": f"RANK, WORLD_SIZE and WEFT_HOSTS are needed: {error!r}"})
        sys.exit(2)
    own_port = hosts[me["rank"]][1] if me["rank"] < len(hosts) else hosts[0][1]
    listener = socket.create_server(("", own_port), backlog=128)
    answers = Answers(listener, me)

    deadline = time.monotonic() + PATIENCE_SECONDS
    result = {"ok": False, "rank": me["rank"], "worldSize": me["worldSize"], "gpus": me["gpus"], "peers": []}
    try:
        peers = [me if rank == me["rank"] else ask(host, me["rank"], deadline) for rank, host in enumerate(hosts)]
    except TimeoutError as error:
        report(result | {"error": str(error)})
        sys.exit(1)
    found = problems(me, peers, hosts, expected_gpus)
    if missing := answers.wait(deadline):
        found.append(f"ranks {missing} have not found this one within {PATIENCE_SECONDS:g} s")
    result["peers"] = [{"rank": peer["rank"], "host": peer["host"], "gpus": len(peer["gpus"])} for peer in peers]
    report(result | {"ok": not found, "error": "; ".join(found) or None})
    stop.wait(seconds)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
