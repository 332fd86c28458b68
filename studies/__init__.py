"""Studies: what the chapters and the README quote, measured over seeds, with the command that measured it."""

from studies.harness import Rows, load, spread

__all__ = ["Rows", "load", "spread"]
