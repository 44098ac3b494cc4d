"""ZipR1 post-training (arXiv 2504.18579).

`training_step` is one step: questions, rollouts, rewards, losses, optimizer. Around it: `train` (the
loop), `trainer` (the Python API), `config` (the settings), `setup`, `checkpoint`. Behind it:
`experience` (all that a step samples: `rollout`, rewards by `modes`, `reference`), `loss` and
`objective` (what is minimised), `grpo` (its formulas), `choice_gradient` (the gradient of the
selection), `learner` (the trained weights).
"""
