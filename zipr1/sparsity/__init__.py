"""Sparse attention: how tokens are selected, and how a model attends to the selected ones only.

Start with `context` (the public `zipr1.sparse`). The method: `probes` (attention scores), `budget`
(Top-p: how many tokens), `rules` (which ones; your own rule goes here). The engine: `block` (what
is changed in a model and restored), `selection`, `attention`, `cache`; `gathered` (scope layer),
`separate` and `prefix` (scope keys), `varlen` (GPUs); `settings` and `trace` are its input and
output. `naive` is the slow reference implementation of the tests.
"""
