"""A run carried out, stored in a folder, and found again."""
