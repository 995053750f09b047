"""Training objectives, one file for each kind of model."""
