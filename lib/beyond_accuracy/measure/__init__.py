"""Intervals, tests and tidy rows."""
