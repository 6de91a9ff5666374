"""`python -m toolkit` typed inside this folder, where that name means this file: the same as from the folder above."""

import os
import runpy
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # in place of this folder
if __name__ == "__main__":
    sys.argv[0] = "-m"  # as it stands while `python -m` looks for the package, which then chooses the Python
    runpy.run_module("toolkit", run_name="__main__", alter_sys=True)
