"""Robots as data: joints, limits, geometry, poses, inverse kinematics. NumPy level only."""
