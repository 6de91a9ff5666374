"""The kit's downloads: the list of resources, their transfer, verification and installation."""
