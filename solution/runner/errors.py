"""The one exception that stands for a mistake the user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: its text is one line that names the place and the next step."""
