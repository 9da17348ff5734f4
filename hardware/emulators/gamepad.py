"""A virtual gamepad in SDL's own library, as real to pygame as one on USB. In the process that reads it."""

import ctypes
from pathlib import Path

from hardware.drivers.gamepad import BUTTONS

GAME_CONTROLLER, NUM_BUTTONS, NUM_AXES = 1, 21, 6
SUBSYSTEMS = 0x200 | 0x2000  # joystick, game controller
AXIS_NAMES = ("leftx", "lefty", "rightx", "righty", "lefttrigger", "righttrigger")


def _sdl() -> ctypes.CDLL:
    """The SDL that pygame has loaded: another copy would have devices of its own."""
    import pygame  # noqa: F401  loads it

    lines = Path("/proc/self/maps").read_text().splitlines()
    library = ctypes.CDLL(next(line.split()[-1] for line in lines if "libSDL2-2" in line))
    library.SDL_JoystickOpen.restype = ctypes.c_void_p
    return library


class VirtualGamepad:
    """Plugged in from the start; `unplug` and `plug` again at will."""

    def __init__(self) -> None:
        self._sdl = _sdl()
        self._sdl.SDL_SetHint(b"SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", b"1")
        self._sdl.SDL_InitSubSystem(SUBSYSTEMS)
        self.plug()

    def plug(self) -> None:
        self._index = self._sdl.SDL_JoystickAttachVirtual(GAME_CONTROLLER, NUM_AXES, NUM_BUTTONS, 1)
        self._pad = ctypes.c_void_p(self._sdl.SDL_JoystickOpen(self._index))
        for trigger in ("lefttrigger", "righttrigger"):
            self.axis(trigger, -1.0)

    def unplug(self) -> None:
        self._sdl.SDL_JoystickDetachVirtual(self._index)

    def close(self) -> None:
        self.unplug()
        self._sdl.SDL_QuitSubSystem(SUBSYSTEMS)

    def axis(self, name: str, value: float) -> None:
        """value: -1 to 1, as the hardware reports it; a trigger rests at -1."""
        self._sdl.SDL_JoystickSetVirtualAxis(self._pad, AXIS_NAMES.index(name), ctypes.c_int16(round(32767 * value)))

    def button(self, name: str, down: bool) -> None:
        self._sdl.SDL_JoystickSetVirtualButton(self._pad, BUTTONS.index(name), int(down))
