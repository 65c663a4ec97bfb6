"""Tasks of lm-eval (EleutherAI's lm-evaluation-harness)."""
