"""The simulator behind the interfaces of devices, in real time."""
