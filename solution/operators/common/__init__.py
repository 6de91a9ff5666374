"""What operators share: rows and reasons, captions, images, models, scores on disk, and base classes."""
