"""Evidence maps to masks: thresholds, fusion, refinement and pseudo-labels (NumPy only)."""
