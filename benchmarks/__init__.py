"""Commands that time a fast path against the plain one in one run and print the ratio."""
