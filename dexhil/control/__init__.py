"""Between a policy and a rig, pure, for simulation and hardware: takeover, chunk executor, limits, guard."""
