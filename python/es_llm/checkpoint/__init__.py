"""What a run leaves on the disk: its directory, journal identity, metrics and exported models."""
