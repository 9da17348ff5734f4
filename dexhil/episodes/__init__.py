"""Episodes on disk: the recorder and its format."""
