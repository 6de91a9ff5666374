"""The embedded mini world: pictures, text, questions and models small enough for two CPU cores."""
