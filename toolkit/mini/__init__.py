"""The embedded mini world: images, text, questions and models small enough for two CPU cores."""
