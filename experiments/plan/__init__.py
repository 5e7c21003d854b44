"""What a study will be able to tell, before it is run."""
