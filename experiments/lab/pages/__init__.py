"""Pages of labs and of finished runs, with their plots."""
