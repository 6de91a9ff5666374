"""How much an image helps a trained MGM to predict its caption."""
