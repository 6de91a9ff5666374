"""The referee of the Better Synth kit: checks, training, evaluation and submission of MGM-2B stage 1."""
