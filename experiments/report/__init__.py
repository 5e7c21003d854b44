"""A study's finished runs -> tables, plots, a text: each section is a file, and ``build.py`` is the loop over them."""
