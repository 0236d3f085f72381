"""Falls along half a cosine to a floor, as transformers' `cosine` and `cosine_with_min_lr`.

In reports of others a floor above 0 for sigma helped long runs, and a fall to 0 hurt them. The default is 0, as in
transformers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from es_llm.schedules._warmup import progress, require_floor, warmed_up

if TYPE_CHECKING:
    from es_llm.config import ESConfig


def factor(config: ESConfig, iteration: int, *, num_warmup_steps: int = 0, floor: float = 0.0) -> float:
    """1 at the end of the warm-up, nearly `floor` in the last iteration.

    Raises:
        ConfigError: `floor` isn't in [0, 1], or `num_warmup_steps` is no number of iterations.
    """
    floor = require_floor("floor", floor)
    done = progress(iteration, num_warmup_steps, config.max_steps)
    return warmed_up(iteration, num_warmup_steps) * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * done)))
