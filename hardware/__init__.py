"""Rigs of real devices: drivers, teleoperation, the control loop, safety and their commands."""
