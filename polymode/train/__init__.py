"""How models learn: the loop, EMA, checkpoints, resume, guard."""
