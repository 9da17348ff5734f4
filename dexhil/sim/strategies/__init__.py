"""What the scripted operator wants at every moment: one reactive state machine per task, told in human terms."""
