"""Graders by problem type, users' own reward functions, and the reward of a completion.

A new problem type goes into `graders`; users' own functions are found by `functions`; `reward` puts
the parts of a completion's reward together.
"""
