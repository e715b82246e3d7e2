"""Figures, the self-contained HTML report of a run, and the same table as plain text."""
