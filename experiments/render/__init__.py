"""How any table, plot and mask looks."""
