"""The training rows: their order, and the digest by which a resume knows them again."""
