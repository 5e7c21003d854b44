"""Samples -> augmented training batches."""
