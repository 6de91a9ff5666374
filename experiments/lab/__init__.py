"""The lab: which data is better, by how much, and is it luck? One engine for every preset."""
