"""Many members in one batch: the noise of each row is added inside the modules of one model."""
