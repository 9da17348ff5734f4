"""The keyboard at a real pseudo-terminal: keys, the terminal's mode, and a terminal that goes away."""

from __future__ import annotations

import contextlib
import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardware.devices.base import DeviceError, OperatorState
from hardware.drivers.keyboard import Keyboard
from tests.hardware.support import wait_for


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ends = pty.openpty()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def keyboard(terminal: tuple[int, int]) -> Iterator[Keyboard]:
    keyboard = Keyboard(terminal=os.ttyname(terminal[1]))
    keyboard.connect()
    yield keyboard
    keyboard.stop()


def state(keyboard: Keyboard) -> OperatorState:
    reading = keyboard.read()
    assert reading is not None
    return reading.value


def test_the_keys_are_shown_to_the_person(keyboard: Keyboard, terminal: tuple[int, int]) -> None:
    assert b"space: take over, hand back" in os.read(terminal[0], 4096)


def test_space_takes_over_and_gives_back(keyboard: Keyboard, terminal: tuple[int, int]) -> None:
    for engaged in (True, False):
        os.write(terminal[0], b" ")
        wait_for(lambda engaged=engaged: state(keyboard).engage is engaged)


def test_keys_choose_what_a_takeover_takes(keyboard: Keyboard, terminal: tuple[int, int]) -> None:
    assert state(keyboard).authority == "both"
    for key, authority in ((b"a", "arm"), (b"H", "hand"), (b"b", "both")):
        os.write(terminal[0], key)
        wait_for(lambda authority=authority: state(keyboard).authority == authority)


def test_keys_become_events_once_in_order_and_a_stop_gives_back(keyboard: Keyboard, terminal: tuple[int, int]) -> None:
    os.write(terminal[0], b" ")
    wait_for(lambda: state(keyboard).engage)
    os.write(terminal[0], b"sFz\reC")
    events: list[str] = []
    wait_for(lambda: events.extend(state(keyboard).events) or "clear_estop" in events)
    assert events == ["success", "failure", "start", "estop", "clear_estop"]
    assert not state(keyboard).engage
    os.write(terminal[0], b"\x1b[A")
    os.write(terminal[0], b"q")
    wait_for(lambda: events.extend(state(keyboard).events) or "quit" in events)
    assert events[5:] == ["quit"], "an arrow key is not Escape"


def test_the_terminal_is_left_as_it_was(terminal: tuple[int, int]) -> None:
    before = termios.tcgetattr(terminal[1])
    keyboard = Keyboard(terminal=os.ttyname(terminal[1]))
    keyboard.connect()
    assert not termios.tcgetattr(terminal[1])[3] & termios.ICANON
    keyboard.stop()
    assert termios.tcgetattr(terminal[1]) == before


def test_a_closed_terminal_engages_nothing(keyboard: Keyboard, terminal: tuple[int, int]) -> None:
    os.write(terminal[0], b" ")
    wait_for(lambda: state(keyboard).engage)
    os.close(terminal[0])
    wait_for(lambda: not keyboard.health().ok)
    assert not state(keyboard).engage
    assert "operator: " in keyboard.health().message


def test_no_terminal_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"operator: .*file is no terminal; start from a terminal"):
        Keyboard(terminal=str(tmp_path / "file")).connect()
