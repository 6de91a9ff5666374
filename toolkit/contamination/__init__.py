"""What of the evaluation sets is in training data: images by a perceptual hash, captions by common words."""
