"""Human key points to hand joints: kinematics, losses, network, training, metrics."""
