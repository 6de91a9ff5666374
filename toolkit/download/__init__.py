"""The kit's downloads: what there is, where it comes from, how it arrives whole."""
