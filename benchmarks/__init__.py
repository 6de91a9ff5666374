"""Commands that time a fast path against the plain one in one run and print the ratio."""

import toolkit  # noqa: F401  changes to the Python that has the kit's packages, where this one has not
