"""What a submission zip holds, and the hash of the fixed part that made it."""
