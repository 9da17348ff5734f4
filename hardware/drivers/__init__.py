"""One file per device. A driver imports its device's package only when it is opened."""
