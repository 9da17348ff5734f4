"""Between recorded values and what the model eats: one path for training batches and for serving. NumPy level only."""
