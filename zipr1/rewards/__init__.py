"""Graders by problem type, users' own reward functions, and the reward of a completion."""
