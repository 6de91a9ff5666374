"""What a submission zip holds and must not hold, and how it is written."""
