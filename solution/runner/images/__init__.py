"""Images of a run: those of its seed, looked at as rows are read, and those that operators make."""
