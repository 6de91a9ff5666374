"""Runs a recipe: reads it and the seed, calls Data-Juicer's operators, keeps the audit and the checkpoints."""
