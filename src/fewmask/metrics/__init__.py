"""Confusion matrices, every score derived from them, intervals by group, and trivial controls."""
