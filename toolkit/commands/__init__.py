"""`python -m toolkit COMMAND`: the arguments of each command, and what it prints."""
