"""The operator at a terminal. Space takes over and hands back; a pad has a dead-man switch, this has none."""

import collections
import contextlib
import os
import re
import select
import termios
import time
import tty

from hardware.devices.base import DeviceError, OperatorState, Stamped
from hardware.devices.streams import Sample, Stream

TOGGLE = " "
KEYS = {
    "s": "success", "f": "failure", "d": "discard", "e": "estop", "\x1b": "estop", "c": "clear_estop", "\r": "start",
    "\n": "start", "q": "quit",
}  # fmt: skip
AUTHORITY = {"a": "arm", "h": "hand", "b": "both"}  # what a takeover takes, from now on
SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]")  # what an arrow or function key sends; not Escape
HELP = (  # shown to the person when the terminal is opened
    b"space: take over, hand back  a, h, b: arm, hand, both  s: success  f: failure  d: discard  enter: start  "
    b"e, escape: stop  c: clear  q: quit\n"
)


class Keyboard(Stream[OperatorState]):
    """terminal: a device such as /dev/pts/3; None is this program's own. Its mode is restored on `stop`."""

    def __init__(self, *, terminal: str | None = None, name: str = "operator", period_s: float = 0.02) -> None:
        super().__init__(
            name, period_s, silent_s=0.3, connect_s=3.0,
            remedy="start from a terminal, not from a pipe or a service, or use a gamepad",
        )  # fmt: skip
        self._terminal = terminal
        self._file: int | None = None
        self._mode: list | None = None
        self._engage, self._authority = False, "both"
        self._events: collections.deque[str] = collections.deque(maxlen=64)

    def read(self) -> Stamped[OperatorState] | None:
        """As `Device.read`; a terminal that is gone engages nothing."""
        reading = super().read()
        if reading is None:
            return None
        events = tuple(self._events.popleft() for _ in range(len(self._events)))
        return reading.with_value(
            OperatorState(reading.valid and reading.value.engage, events, reading.value.authority)
        )

    def _open(self) -> None:
        self._engage = False
        self._file = os.dup(0) if self._terminal is None else os.open(self._terminal, os.O_RDWR)
        if not os.isatty(self._file):
            raise DeviceError(self._message(f"{self._terminal or 'standard input'} is no terminal"))
        self._mode = termios.tcgetattr(self._file)
        tty.setcbreak(self._file)
        with contextlib.suppress(OSError):  # a terminal that is open for reading only
            os.write(self._file, HELP)

    def _close(self) -> None:
        file, mode = self._file, self._mode
        self._file = self._mode = None
        if file is None:
            return
        try:
            if mode is not None:
                termios.tcsetattr(file, termios.TCSADRAIN, mode)
        finally:
            os.close(file)

    def _poll(self) -> Sample[OperatorState] | None:
        assert self._file is not None
        ready, _, _ = select.select([self._file], [], [], self.period_s)
        if ready:
            typed = os.read(self._file, 64)
            if not typed:
                raise DeviceError(self._message("the terminal was closed"))
            self._type(typed.decode("ascii", "replace"))
        return Sample(OperatorState(self._engage, authority=self._authority), time.monotonic())

    def _type(self, typed: str) -> None:
        for key in SEQUENCE.sub("", typed):
            if key == TOGGLE:
                self._engage = not self._engage
            elif key.lower() in AUTHORITY:
                self._authority = AUTHORITY[key.lower()]
            elif key.lower() in KEYS:
                self._events.append(KEYS[key.lower()])
                self._engage = self._engage and KEYS[key.lower()] != "estop"
