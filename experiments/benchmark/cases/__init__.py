"""What ``python -m experiments.benchmark what=NAME`` measures: ``NAME.py`` has ``measure(setup) -> Outcome``."""
