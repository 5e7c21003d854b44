"""Masks of trained runs on any images."""
