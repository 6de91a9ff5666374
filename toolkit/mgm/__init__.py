"""MGM (Mini-Gemini) with a Gemma language model: the model, its text and image processing, its checkpoints."""
