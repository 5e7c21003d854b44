"""Times measured in alternating rounds on one machine; ``cases/NAME.py`` is ``what=NAME``."""
