"""One call of `train`: iterations, evaluations, snapshots, resume and rebuilding, as a program of the team."""
