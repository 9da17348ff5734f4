"""The DexHand021 vendor's USB adapter (ZLG USBCANFD) as a bus of python-can; the SDK: third_party/dexhand021.md."""

import collections
from typing import Any


class ZlgBus:
    """channel: of the adapter. device_index: which adapter. Raises OSError where there is none."""

    def __init__(self, *, channel: int = 0, device_index: int = 0, fd: bool = True) -> None:
        from pyzlg_dexhand.zcan_wrapper import ZCANWrapper  # pyright: ignore[reportMissingImports]

        if not fd:
            raise OSError("the hand speaks CAN-FD; leave fd out")
        self._adapter, self._channel = ZCANWrapper(), channel
        if not self._adapter.open(device_index=device_index):
            raise OSError(f"no ZLG adapter with index {device_index}, or no permission to use it")
        if not self._adapter.configure_channel(channel):
            raise OSError(f"channel {channel} of the ZLG adapter cannot be started")
        self._received: collections.deque[Any] = collections.deque()

    def send(self, message: Any) -> None:
        """A `can.Message`. Raises OSError where the adapter refuses it."""
        if not self._adapter.send_fd_message(self._channel, message.arbitration_id, bytes(message.data)):
            raise OSError("the ZLG adapter did not send; is the hand on and connected?")

    def recv(self, timeout: float) -> Any:
        """The next `can.Message`, None after `timeout` s without one."""
        import can

        if not self._received:
            timeout_ms = max(1, round(1e3 * timeout))
            frames = self._adapter.receive_fd_messages(self._channel, max_messages=100, timeout_ms=timeout_ms)
            for number, data, _ in frames:
                self._received.append(can.Message(arbitration_id=number, data=data, is_fd=True, is_extended_id=False))
        return self._received.popleft() if self._received else None

    def shutdown(self) -> None:
        self._adapter.close()
