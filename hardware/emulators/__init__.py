"""Emulators that speak a device's real protocol, to try the stack without the device. Each runs as a command."""
