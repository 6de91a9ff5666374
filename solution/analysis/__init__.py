"""Scores of all rows of a recipe, and the page on which its thresholds are chosen."""
