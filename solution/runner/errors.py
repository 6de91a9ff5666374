"""The exception for a mistake that the user can fix."""


class UserError(Exception):
    """A mistake in what the user gave: its text is one line that names file, row or key, and the next step."""
