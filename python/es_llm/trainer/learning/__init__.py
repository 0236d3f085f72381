"""Whether a run learns: answers of members compared, collapses found, and the reason named when nothing moves."""
