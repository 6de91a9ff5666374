"""Does better data score better in the mini world? Arms, trials and the table of their records."""
