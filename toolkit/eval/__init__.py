"""Answering TextVQA and MMBench with a trained MGM, and scoring the answers."""
