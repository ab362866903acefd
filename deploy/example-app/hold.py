"""Says which GPUs this container was given, and keeps them for a while: hold.py SECONDS"""

import glob
import json
import os
import signal
import sys
import threading


def visible_gpus():
    """The GPUs that the device plugin put into the environment, and the device nodes that are really there."""
    named = [gpu for gpu in os.environ.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if gpu not in ("", "void", "none")]
    return named, sorted(glob.glob("/dev/nvidia[0-9]*"))


def main():
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    stop = threading.Event()
    # The first process of a container ignores SIGTERM unless it says otherwise.
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    gpus, devices = visible_gpus()
    print(json.dumps({"ok": len(gpus) == len(devices), "gpus": gpus, "devices": devices, "seconds": seconds}), flush=True)
    if stop.wait(seconds):
        sys.exit(128 + signal.SIGTERM)
    sys.exit(0 if len(gpus) == len(devices) else 1)


if __name__ == "__main__":
    main()
