"""What drivers are made of: a thread that keeps the newest reading, and the gate that every command passes.

A driver subclasses `Stream` (sensors) or `ActuatorStream` and says how to open, poll and close its device. One that
fails is opened again until it works, unless `reopens` is False. NumPy only.
"""

import abc
import dataclasses
import importlib
import threading
import time
from typing import Any, Generic, TypeVar

import numpy as np

from hardware.devices.base import DeviceError, Health, Stamped

Value = TypeVar("Value")

REOPEN_S = 0.2  # between two attempts to open a device that failed
LEAVE_S = 10.0  # so long `stop` waits for the device to come to rest
LARGEST_GAP_S = 0.1  # a command after a longer pause moves no further than one after this


@dataclasses.dataclass(frozen=True)
class Sample(Generic[Value]):
    """One reading.

    Attributes:
        value: None: there is none yet.
        t_device: s, `time.monotonic()`.
        fault: why the value cannot be trusted.
        alarm: the value is good, but the device needs somebody.
    """

    value: Value | None
    t_device: float
    fault: str = ""
    alarm: str = ""


class Stream(abc.ABC, Generic[Value]):
    """A device that a thread of its own reads; the interface is `hardware.devices.base.Device`.

    Args:
        name: as in the config.
        period_s: s between readings.
        silent_s: s without a reading after which it counts as silent.
        connect_s: s that `connect` waits for the first one.
        remedy: what to do when it is missing, the end of every message.
    """

    reopens = True

    def __init__(self, name: str, period_s: float, *, silent_s: float, connect_s: float, remedy: str) -> None:
        self.name, self.period_s = name, period_s
        self._silent_s, self._connect_s, self._remedy = silent_s, connect_s, remedy
        self._latest: Stamped[Value] | None = None
        self._failure, self._fault, self._alarm = "not connected", "", ""
        self._done, self._news = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._next = 0.0

    @abc.abstractmethod
    def _open(self) -> None:
        """Opens the device; in the device's thread. Raises DeviceError, or what the device's package raises."""

    @abc.abstractmethod
    def _poll(self) -> Sample[Value] | None:
        """The next reading; waits for it, but well under a second, then None. Raises where the device is gone."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Brings to rest and releases; may come after a failed `_open`, and may raise."""

    def connect(self) -> None:
        """Opens the device and waits for its first reading; no effect on one that works.

        Raises:
            DeviceError: there is none; with the remedy.
        """
        if self._thread is not None and self._thread.is_alive() and not (self._failure or self._silence()):
            return
        self.stop()
        self._latest, self._failure, self._fault, self._alarm = None, "", "", ""
        self._done, self._news = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(self._done,), name=self.name, daemon=True)
        self._thread.start()
        self._news.wait(self._connect_s)
        if self._latest is None or self._failure:
            message = self._message(self._failure or self._fault or f"no reading within {self._connect_s:g} s")
            self.stop()
            raise DeviceError(message)

    def read(self) -> Stamped[Value] | None:
        """The newest reading, at once; not valid where it cannot be trusted, or where the device fell silent."""
        latest = self._latest
        if latest is not None and self._trouble():
            return dataclasses.replace(latest, valid=False)
        return latest

    def health(self) -> Health:
        trouble = self._trouble() or self._alarm
        return Health(False, self._message(trouble)) if trouble else Health(True)

    def stop(self) -> None:
        """To rest, and released. May be called again; never raises."""
        self._done.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(LEAVE_S)
        self._thread, self._failure = None, "not connected"

    def _load(self, module: str, package: str) -> Any:
        """The device's own `package`. Raises DeviceError with the remedy."""
        try:
            return importlib.import_module(module)
        except ImportError as error:
            raise DeviceError(
                f"{self.name}: {package} cannot be loaded ({error}); run make setup, then make extras"
            ) from None

    def _wait_period(self) -> None:
        self._next = max(self._next + self.period_s, time.monotonic())
        time.sleep(max(0.0, self._next - time.monotonic()))

    def _trouble(self) -> str:
        return self._failure or self._silence() or self._fault

    def _silence(self) -> str:
        silent = time.monotonic() - self._latest.t_received if self._latest else 0.0
        return f"silent for {silent:.2f} s" if silent > self._silent_s else ""

    def _message(self, what: str) -> str:
        return what if what.startswith(f"{self.name}: ") else f"{self.name}: {what}; {self._remedy}"

    def _run(self, done: threading.Event) -> None:
        while not done.is_set():
            try:
                self._open()
                self._returned()
                while not done.is_set():
                    sample = self._poll()
                    if sample is not None and not done.is_set():
                        self._take(sample)
            except Exception as error:  # a device's package may raise anything, and the loop must learn of it
                if not done.is_set():
                    text = " ".join(str(error).split())
                    self._failure = text if isinstance(error, DeviceError) else f"{type(error).__name__}: {text}"
                    self._news.set()
            finally:
                self._close_quietly()
            if not self.reopens:
                return
            done.wait(REOPEN_S)

    def _returned(self) -> None:
        """The device is there, for the first time or again after a failure or silence; in the device's thread."""

    def _close_quietly(self) -> None:
        try:
            self._close()
        except Exception as error:  # it is gone already; what matters was said when it failed
            self._alarm = f"closing failed: {type(error).__name__}: {error}"

    def _take(self, sample: Sample[Value]) -> None:
        if self._silence():
            self._returned()
        seq = self._latest.seq if self._latest else 0
        last = self._latest.value if self._latest else None
        value = last if sample.value is None or (sample.fault and last is not None) else sample.value
        if value is not None:
            self._latest = Stamped(value, sample.t_device, time.monotonic(), seq + 1, not sample.fault)
        self._fault, self._alarm, self._failure = sample.fault, sample.alarm, ""
        if value is not None:
            self._news.set()


class ActuatorStream(Stream[Value]):
    """A device that moves: `hardware.devices.base.Actuator`; the settings but these are those of `Stream`.

    The first command after opening or silence starts from the measured joints, so that nothing jumps.

    Args:
        joint_names: n names.
        lower: [n] rad.
        upper: [n] rad.
        max_velocity: [n] rad/s.
    """

    def __init__(
        self, name: str, period_s: float, joint_names: tuple[str, ...], lower: np.ndarray, upper: np.ndarray,
        max_velocity: np.ndarray, *, silent_s: float, connect_s: float, remedy: str,
    ) -> None:  # fmt: skip
        super().__init__(name, period_s, silent_s=silent_s, connect_s=connect_s, remedy=remedy)
        self.joint_names = joint_names
        self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        self.max_velocity = np.asarray(max_velocity, np.float64)
        self._gate = threading.Lock()
        self._commanded: np.ndarray | None = None
        self._commanded_at, self._epoch = 0.0, 0

    def _joints(self, value: Value) -> np.ndarray:
        """Measured joints [n] rad of a reading."""
        return np.asarray(value)

    @abc.abstractmethod
    def _send(self, target: np.ndarray, t_execute: float) -> np.ndarray:
        """Commands the device; returns what it was commanded [n] rad, as encoded. Raises where it cannot."""

    def command(self, target: np.ndarray, t_execute: float, epoch: int) -> np.ndarray:
        """See `Actuator.command`. The limits are position and `max_velocity` since the last command.

        Raises:
            DeviceError: the device fails, or the target is not [n] finite numbers: the last command holds then.
        """
        target = self._checked(target)
        with self._gate:
            trouble, latest = self._trouble(), self._latest
            if trouble or latest is None:
                raise DeviceError(self._message(trouble or "no reading yet"))
            now = time.monotonic()
            if self._commanded is None:
                self._commanded, self._commanded_at = self._joints(latest.value).copy(), now - self.period_s
            if epoch < self._epoch:
                return self._commanded.copy()
            reach = self.max_velocity * min(now - self._commanded_at, LARGEST_GAP_S)
            limited = np.clip(np.clip(target, self._commanded - reach, self._commanded + reach), self.lower, self.upper)
            try:
                self._commanded = self._send(limited, t_execute)
            except Exception as error:  # whatever the device's package raises
                raise DeviceError(self._message(f"command not sent: {type(error).__name__}: {error}")) from error
            self._commanded_at, self._epoch = now, epoch
            return self._commanded.copy()

    def _returned(self) -> None:
        with self._gate:
            self._commanded = None

    def _checked(self, target: np.ndarray) -> np.ndarray:
        target = np.asarray(target, np.float64)
        count = len(self.joint_names)
        if target.shape != (count,):
            raise DeviceError(f"{self.name}: expected a target [{count}] rad, got {list(target.shape)}; it holds")
        if not np.isfinite(target).all():
            joint = int(np.argmin(np.isfinite(target)))
            raise DeviceError(
                f"{self.name}: target of {self.joint_names[joint]} is {target[joint]}; expected finite rad; it holds"
            )
        return target
