"""Recorder directories to RLDS, and RLDS to training batches. TensorFlow lives here and nowhere else."""
