"""Rollouts, paired trials, intervals and reports."""
