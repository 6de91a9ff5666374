"""Experiments with the kit: no part of the referee, so a change here changes no score."""
