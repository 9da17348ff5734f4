"""Human-in-the-loop post-training of VLA policies for an arm with a dexterous hand."""
