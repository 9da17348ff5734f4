"""A glove server as GeoRT's, on a hand that opens and closes: PUB of float32 [21, 3]."""

import argparse
import itertools
import time

import numpy as np
import zmq

from dexhil.retargeting import synthetic

HZ = 90.0


def main() -> None:
    parser = argparse.ArgumentParser(description="An emulated glove.")
    parser.add_argument("--address", default="tcp://127.0.0.1:8765")
    address = parser.parse_args().address
    socket = zmq.Context().socket(zmq.PUB)
    socket.setsockopt(zmq.LINGER, 0)
    socket.bind(address)
    print(f"emulated glove at {address}", flush=True)
    began = time.monotonic()
    for count in itertools.count(1):
        bent = 0.5 - 0.5 * np.cos(count / HZ)  # opening and closing
        points = synthetic.keypoints_of(synthetic.OPEN + bent * (synthetic.FIST - synthetic.OPEN))
        socket.send(points.astype(np.float32).tobytes())
        time.sleep(max(0.0, began + count / HZ - time.monotonic()))


if __name__ == "__main__":
    main()
