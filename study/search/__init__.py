"""The search: genome, sampler, schedule of questions, and the jobs that remain."""
