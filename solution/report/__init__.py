"""The HTML page about a finished run."""
