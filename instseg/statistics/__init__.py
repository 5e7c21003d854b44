"""Intervals of AP and of differences over images, seeds and folds, and what they decide."""
