"""Rows and data sets: formats, images, faults, and where each row comes from."""
