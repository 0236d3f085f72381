"""Units of work on one rank: rows become completions, completions become rewards, rewards become counts that travel."""
