"""Looking a data set over before a run uses it."""
