"""Every page, plot and film that a command leaves."""
