"""Readers of annotation files, and what can be wrong with these."""
