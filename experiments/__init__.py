"""Experiments with the kit. They are no part of the referee: a change here changes no score."""

import toolkit  # noqa: F401  changes to the Python that has the kit's packages, where this one has not
