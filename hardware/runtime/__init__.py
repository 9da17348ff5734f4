"""A rig at work: loops, processes, slots, the control tick and its safety layer."""
