"""Processed data as others load it, with images inside and a card, and back again."""
