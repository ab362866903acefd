"""A matrix product on the GPU from an application without CUDA: NumPy arrays in memory shared with Weft's runtime."""

import json
import signal
import sys
import time

import numpy as np
import weft


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    rng = np.random.default_rng(1)
    with weft.connect(timeout=120) as gpu:
        a = gpu.empty((256, 512), np.float32)
        b = gpu.empty((512, 128), np.float32)
        a[:] = rng.standard_normal(a.shape)
        b[:] = rng.standard_normal(b.shape)

        started = time.perf_counter()
        c = gpu.gemm(a, b)
        seconds = time.perf_counter() - started

        expected = a.astype(np.float64) @ b.astype(np.float64)
        scale = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
        worst = float(np.max(np.abs(c - expected) / scale))
        ok = bool(worst < 1e-5)
        result = {
            "ok": ok,
            "gpus": [found.uuid for found in gpu.info().gpus],
            "shape": list(c.shape),
            "worstRelativeDifference": worst,
            "seconds": seconds,
            "gpuSeconds": gpu.last_seconds,
        }
    report(result)
    sys.exit(0 if ok else 1)


def report(result):
    """Prints the result, and leaves it where Kubernetes, and so the job's status, picks it up."""
    line = json.dumps(result)
    print(line, flush=True)
    try:
        with open("/dev/termination-log", "w", encoding="utf-8") as log:
            log.write(line)
    except OSError:
        pass  # Not in a pod.


if __name__ == "__main__":
    try:
        main()
    except weft.Error as error:
        report({"ok": False, "error": str(error)})
        sys.exit(1)
