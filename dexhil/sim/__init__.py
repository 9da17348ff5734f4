"""The MuJoCo rig: robot, tasks, randomisation and the scripted operator. Only this package imports MuJoCo."""

from __future__ import annotations

from dexhil.sim.gl import choose_backend

choose_backend()  # MuJoCo reads its choice of OpenGL when it is first imported
