"""Experiments with the kit. They are no part of the referee: a change here changes no score."""
