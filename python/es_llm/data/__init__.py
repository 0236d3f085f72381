"""Rows of data sets: from the hub, files and streams; their order, and digests by which a resume recognizes them.

Knows nothing about tasks, rewards or models.
"""
