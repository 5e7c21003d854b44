"""A study's finished runs -> tables, plots, a text: one file a section; ``build.py`` is the loop over them."""
