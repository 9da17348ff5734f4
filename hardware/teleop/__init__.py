"""A person's devices in terms of the takeover: cube, calibration, filters."""
