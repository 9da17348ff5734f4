"""What the helper processes of a session have in common."""

from __future__ import annotations

import signal


def leave_signals_to_parent() -> None:
    """Ctrl-C and a polite kill reach the whole group: the parent decides what comes of them, and ends its helpers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
