"""The referee of the Better Synth kit: checks, training, evaluation and submission of MGM-2B stage 1."""

from __future__ import absolute_import  # noqa: UP010, for Python 2, where toolkit/toolkit.py would be found first

import sys

from toolkit.entry import begin

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "tqdm", "yaml", "PIL", "openpyxl")

# While `python -m` looks for its module, `-m` stands here. An old Python could not even read the modules.
if sys.argv[0] == "-m" or sys.version_info < (3, 10):
    begin(PACKAGES)
