"""The processes that run reward functions: a server beside each rank, and the workers that it starts, limits and kills.

`RewardSet` uses `pool.RewardPool` and nothing else of this package. No reward is known here.
"""
