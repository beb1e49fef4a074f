"""The plain torch twin of every op: short, slow, and the specification."""
