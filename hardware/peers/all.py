"""Starts every stand-in of hardware/configs/peers.py: robot, hand on its bus, glove. Ctrl-C ends them.

python -m hardware.peers.all
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

PEERS = ("hardware.peers.fr3", "hardware.peers.dexhand021", "hardware.peers.glove")


def main() -> None:
    processes = []
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends them as Ctrl-C does
    try:
        for module in PEERS:
            process = subprocess.Popen([sys.executable, "-m", module], stdout=subprocess.PIPE, text=True)
            processes.append(process)
            assert process.stdout is not None
            print(f"{module}: {process.stdout.readline().strip()}", flush=True)
        print("now: python hardware/eval.py --config hardware/configs/peers.py --checkpoint RUN", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            processes[0].wait()
    finally:
        for process in processes:
            process.kill()


if __name__ == "__main__":
    main()
