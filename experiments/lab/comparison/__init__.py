"""What a lab found: scores, intervals, verdicts, warnings, as plain values and as a table."""
